"""The precision of products of float32 operands."""

import torch


def precision(x: torch.Tensor) -> str:
    """ "tf32" or "ieee" for float32 operands like x; 16 bits need neither, and have "ieee"."""
    return precision_of(x.dtype, x.device)


def precision_of(dtype: torch.dtype, device: torch.device) -> str:
    return float32_precision(device) if dtype is torch.float32 else "ieee"


def float32_precision(device: torch.device) -> str:
    """As `torch.backends.cudnn.conv.fp32_precision` (or the older ``cudnn.allow_tf32``) says. HIP
    and the interpreter have ieee alone.
    """
    if device.type != "cuda" or torch.version.hip:
        return "ieee"
    return "tf32" if torch.backends.cudnn.conv.fp32_precision == "tf32" else "ieee"
