"""Fused operators, each with a reference, a C++ CPU, a Triton and a CUDA backend."""

import sys
from importlib import import_module
from typing import Any

from fastgan.kernels.core.packed import packed_weights
from fastgan.ops.bias_act import bias_act
from fastgan.ops.conv.tuning import convolution_form
from fastgan.ops.conv_block import conv_block
from fastgan.ops.conv_norm_act import conv_norm_act, conv_transpose_norm_act
from fastgan.ops.core.dispatch import available, backend
from fastgan.ops.core.native import cached_memory
from fastgan.ops.gather_images import gather_images
from fastgan.ops.norm_act import instance_norm_act, norm_act
from fastgan.ops.norm_act.sync import sync_norm_act
from fastgan.ops.norm_act_conv import norm_act_conv
from fastgan.system import renamed

__all__ = [
    "available",
    "backend",
    "bias_act",
    "cached_memory",
    "conv_block",
    "conv_norm_act",
    "conv_transpose_norm_act",
    "convolution_form",
    "gather_images",
    "instance_norm_act",
    "norm_act",
    "norm_act_conv",
    "packed_weights",
    "sync_norm_act",
]


def __getattr__(name: str) -> Any:
    if name == "kept_memory":
        renamed("fastgan.ops.kept_memory", "fastgan.ops.cached_memory")
        return cached_memory
    if name == "tuning":
        renamed("fastgan.ops.tuning", "fastgan.ops.conv.tuning")
        return import_module("fastgan.ops.conv.tuning")
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__]
    )
