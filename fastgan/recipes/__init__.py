"""Named runs: models, data and hyper-parameters, each a small typed configuration."""

from fastgan.recipes import (
    autoencoders,
    conditional,
    dcgan,
    digits,
    losses,
    mlp_gan,
    resnet,
    translation,
)
from fastgan.recipes.config_file import load_recipe
from fastgan.recipes.planning import dry_run
from fastgan.recipes.recipe import (
    DataConfig,
    ModelSpec,
    Recipe,
    StartConfig,
    get_recipe,
    list_recipes,
    register_recipe,
)
from fastgan.recipes.run import as_trained, build_models, build_trainer, override, run_folder, train

__all__ = [
    "DataConfig",
    "ModelSpec",
    "Recipe",
    "StartConfig",
    "as_trained",
    "autoencoders",
    "build_models",
    "build_trainer",
    "conditional",
    "dcgan",
    "digits",
    "dry_run",
    "get_recipe",
    "list_recipes",
    "load_recipe",
    "losses",
    "mlp_gan",
    "override",
    "register_recipe",
    "resnet",
    "run_folder",
    "train",
    "translation",
]
