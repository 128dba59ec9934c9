"""Whether blocks keep for backward what they would else compute again."""

from __future__ import annotations

import torch

from fastgan.ops.core.setting import Setting


class activations_kept(Setting):
    """Has the blocks of every FusedSequential and `chain` keep their activations for backward, or
    compute them again: at once, or for a `with` block.

    name: "on" (more memory: of each block one more tensor of its size; less time), "off", or "auto"
    (as each FusedSequential was made, `chain` without); ValueError for another. The setting belongs
    to the process and is read in the forward pass. Models that `fuse` made keep what they were told
    to.
    """

    names = ("on", "off")

    @classmethod
    def by(cls, own: bool) -> bool:
        """Whether a module keeps, whose own setting is given; without gradients nothing is kept,
        and a module that would save memory runs as one that does not.
        """
        if cls.value != "auto":
            return cls.value == "on"
        return own or not (torch.is_grad_enabled() or torch.compiler.is_compiling())
