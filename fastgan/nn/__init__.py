"""Modules over the fused operators, with the constructor arguments and weights of torch.nn's."""

from fastgan.nn.bias_act import BiasAct
from fastgan.nn.conv_norm_act import (
    ConvNormAct1d,
    ConvNormAct2d,
    ConvNormAct3d,
    ConvTransposeNormAct1d,
    ConvTransposeNormAct2d,
    ConvTransposeNormAct3d,
)
from fastgan.nn.keeping import activations_kept
from fastgan.nn.norm_act import (
    BatchNormAct1d,
    BatchNormAct2d,
    BatchNormAct3d,
    InstanceNormAct1d,
    InstanceNormAct2d,
    InstanceNormAct3d,
    batches_counted_together,
    convert_sync_batchnorm,
    segments,
)
from fastgan.nn.sequential import FusedSequential, chain

__all__ = [
    "BatchNormAct1d",
    "BatchNormAct2d",
    "BatchNormAct3d",
    "BiasAct",
    "ConvNormAct1d",
    "ConvNormAct2d",
    "ConvNormAct3d",
    "ConvTransposeNormAct1d",
    "ConvTransposeNormAct2d",
    "ConvTransposeNormAct3d",
    "FusedSequential",
    "InstanceNormAct1d",
    "InstanceNormAct2d",
    "InstanceNormAct3d",
    "activations_kept",
    "batches_counted_together",
    "chain",
    "convert_sync_batchnorm",
    "segments",
]
