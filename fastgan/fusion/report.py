"""What `fuse` did to a model, and why not more."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Block:
    """A block that stands in a model: the names of its layers, what they are, and its fate.

    reason: why it was left as it is; empty for a fused block.
    """

    layers: tuple[str, ...]
    kinds: tuple[str, ...]
    reason: str = ""

    @property
    def fused(self) -> bool:
        return not self.reason

    def __str__(self) -> str:
        fate = f"left: {self.reason}" if self.reason else "fused"
        return f"{', '.join(self.layers)}: {' → '.join(self.kinds)}: {fate}"


@dataclass
class FusionReport:
    """The blocks found in a model, in the order they run; printing it shows them all.

    untraced: (module, why) of the forwards that could not be traced; their submodules were looked
    at one by one.
    """

    blocks: list[Block] = field(default_factory=list)
    untraced: list[tuple[str, str]] = field(default_factory=list)

    @property
    def fused(self) -> int:
        """How many blocks were fused."""
        return sum(block.fused for block in self.blocks)

    def __len__(self) -> int:
        return len(self.blocks)

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        lines = [f"{self.fused} of {len(self.blocks)} blocks fused"]
        lines += [f"  {block}" for block in self.blocks]
        lines += [f"  {name or 'the model'} {reason}" for name, reason in self.untraced]
        return "\n".join(lines)
