"""fastgan recipes"""

from __future__ import annotations

from fastgan.cli._common import no_more, wants_help
from fastgan.recipes import list_recipes


def run(arguments: list[str]) -> int:
    if wants_help(arguments):
        print("usage: fastgan recipes\n\nList the recipes, with a line on each.")
        return 0
    no_more("recipes", arguments)
    recipes = list_recipes()
    width = max(len(r.name) for r in recipes)
    for recipe in recipes:
        print(f"{recipe.name:{width}}  {recipe.summary}")
    return 0
