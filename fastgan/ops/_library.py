"""The `fastgan` operator namespace. The library object must live as long as its operators."""

from __future__ import annotations

import torch

LIBRARY = torch.library.Library("fastgan", "FRAGMENT")


def define(schema: str) -> None:
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
