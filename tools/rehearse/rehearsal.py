"""Every recipe's steps, each variant of them, recorded, checked and executed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import product

from fastgan.engine.precision import Precision
from fastgan.recipes import Recipe, get_recipe, list_recipes

from . import check, execute, report
from .gpus import GPUS
from .steps import Variant, place, record


@dataclasses.dataclass(frozen=True)
class Step:
    """What became of a step. nodes: of its graph, or launches where there is none, by kernel."""

    recipe: str
    variant: str
    nodes: dict[str, int]
    outside: int
    problems: list[str]


QUICK = (
    Variant(GPUS["sm_90"], capture=True),
    Variant(GPUS["sm_90"], capture=True, backend="triton", form="fused"),
)

EXECUTED: tuple[Precision, ...] = ("bfloat16", "tf32")
FEW = 2  # images of a batch whose calls are executed


def variants(targets: Sequence[str]) -> Iterator[Variant]:
    """Captured and eager on the first GPU; on the others the Triton kernels alone differ."""
    for i, target in enumerate(targets):
        gpu = GPUS[target]
        yield Variant(gpu, capture=True, backend="triton")
        yield Variant(gpu, capture=True, backend="triton", form="fused")
        if i == 0:
            yield Variant(gpu, capture=True)
            yield Variant(gpu, capture=False)
            yield Variant(gpu, capture=True, precision="tf32")
            yield Variant(gpu, capture=True, precision="tf32", backend="triton", form="fused")


def rehearse(
    names: Sequence[str], targets: Sequence[str], compiles: bool = True, quick: bool = False
) -> list[Step]:
    """Prints the launches of each step as it goes.

    Args:
        names: of recipes; none are all.
        targets: of GPUS; none are sm_90, and the others after it.
        compiles: whether kernels are compiled, too.
        quick: only the two variants of QUICK.

    Raises:
        ValueError: there is no such recipe or target.
    """
    recipes = [get_recipe(name) for name in names] or list_recipes()
    targets = targets or sorted(GPUS, key=lambda target: target != "sm_90")
    if unknown := set(targets) - GPUS.keys():
        raise ValueError(f"unknown GPU {min(unknown)!r}: there are {', '.join(GPUS)}")
    compiler = check.Compiler() if compiles else None
    chosen = QUICK if quick else tuple(variants(targets))
    return [_step(recipe, variant, compiler) for recipe in recipes for variant in chosen]


def executed(names: Sequence[str]) -> execute.Executed:
    """The calls of the recipes' steps by Triton's kernels, of FEW images, in the interpreter; in
    bfloat16 and in TF32.

    names: as in `rehearse`. A kernel that a step launches and no call does is a problem, too.
    """
    calls, launched, problems = [], set(), []
    for recipe in [get_recipe(name) for name in names] or list_recipes():
        for precision, form in product(EXECUTED, ("auto", "fused")):
            variant = Variant(GPUS["sm_90"], True, precision, "triton", form)
            joint = recipe.name.startswith("dcgan")
            step = record(narrow(recipe), variant, batch_size=FEW, joint_batch=joint)
            calls += step.calls
            launched |= {launch.name for launch in step.launches if launch.kind == "triton"}
    found = execute.in_interpreter(calls)
    problems = [f"{name} was launched in no call" for name in sorted(launched - set(found.kernels))]
    return found._replace(problems=[*found.problems, *problems])


def narrow(recipe: Recipe) -> Recipe:
    """A recipe with a DCGAN of large images as few channels wide as leaves its kernels the same."""
    if recipe.name not in ("dcgan-32", "dcgan-64", "dcgan-128"):
        return recipe
    models = {
        network: dataclasses.replace(spec, arguments={**spec.arguments, "width": 16})
        for network in ("generator", "discriminator")
        if (spec := getattr(recipe, network)) is not None
    }
    return dataclasses.replace(recipe, **models)


def _step(recipe: Recipe, variant: Variant, compiler: check.Compiler | None) -> Step:
    joint = variant.capture and recipe.name.startswith("dcgan")
    try:
        launches = record(recipe, variant, joint_batch=joint).launches
    except Exception as error:  # a value is read on the host, among others
        told = f"{recipe.name}, {variant}: {type(error).__name__}: {error} ({place(error)})"
        print(f"\n{told}", flush=True)
        return Step(recipe.name, str(variant), {}, 0, [told])
    print(f"\n{recipe.name}: {variant}{', joint batch' if joint else ''}")
    print(report.table(launches, variant.capture), flush=True)
    problems = check.problems(launches)
    if compiler:
        before = len(compiler.remarks)
        problems += compiler.problems(launches, variant.gpu)
        for remark in compiler.remarks[before:]:
            print(f"        remark: {remark}", flush=True)
    for problem in problems:
        print(f"        problem: {problem}", flush=True)
    nodes = report.counted(launches, variant.capture)
    return Step(
        recipe.name, str(variant), {f"{kind} {name}": n for (kind, name), n in nodes.items()},
        sum(launch.nodes for launch in launches if launch.captured != variant.capture),
        [f"{recipe.name}, {variant}: {problem}" for problem in problems],
    )  # fmt: skip
