"""Train, measure and picture the recipes: `python -m tools.recipe_report`."""
