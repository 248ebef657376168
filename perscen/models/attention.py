"""Self-attention as ICAN and M5 use it.

Letters: B rows, T places of a row, D width, H heads, K width of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Multi-head attention of a row's places to each other, with a linear output.

    Args:
        dim: D, shared evenly by the heads.
        heads: H.
        scaled: Whether products are divided by the square root of K.
    """

    def __init__(self, dim: int, heads: int, *, scaled: bool) -> None:
        super().__init__()
        self._heads = heads
        self._scale = 1 / math.sqrt(dim // heads) if scaled else 1.0
        self.read = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x_BTD: Tensor, real_BT: Tensor | None = None) -> Tensor:
        """Return ``[B, T, D]``; places that are not real are not attended to.

        A row without any real place is finite, and means nothing.
        """
        num_rows, num_places, dim = x_BTD.shape
        split = (num_rows, num_places, self._heads, dim // self._heads)
        query_BHTK, key_BHTK, value_BHTK = (
            part.reshape(split).transpose(1, 2) for part in self.read(x_BTD).chunk(3, dim=2)
        )
        weight_BHTT = query_BHTK @ key_BHTK.transpose(2, 3) * self._scale
        if real_BT is not None:
            weight_BHTT = hide(weight_BHTT, real_BT[:, None, None])
        mixed_BHTK = weight_BHTT.softmax(dim=3) @ value_BHTK
        mixed_BTD: Tensor = self.out(mixed_BHTK.transpose(1, 2).flatten(2))
        return mixed_BTD


def hide(logits: Tensor, real: Tensor) -> Tensor:
    """Return the logits with the lowest finite number where nothing is: no NaN if nothing is."""
    return logits.masked_fill(~real, torch.finfo(logits.dtype).min)
