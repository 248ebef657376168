"""Self-attention as ICAN, M5 and the self-attention retriever use it.

Letters: B rows, T places of a row, D width, H heads, K width of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perscen.data.batches import Packed
from perscen.models.layers import mlp


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

    def forward(
        self, x_BTD: Tensor, real_BT: Tensor | None = None, *, num_last: int | None = None
    ) -> Tensor:
        """Return ``[B, T, D]``; places that are not real are not attended to.

        A row without any real place is finite, and means nothing.

        Args:
            x_BTD: What stands at each place.
            real_BT: Which places hold something; None: all.
            num_last: How many of the last places are asked for; None: all.
        """
        query_BHTK, key_BHTK, value_BHTK = (
            part.view(*part.shape[:2], self._heads, part.shape[2] // self._heads).transpose(1, 2)
            for part in self._read(x_BTD, num_last)
        )
        mask_B11T = None
        if real_BT is not None:
            # As numbers and not as truths: of those a row of nothing but False would be NaN.
            nothing_BT = hide(torch.zeros_like(real_BT, dtype=query_BHTK.dtype), real_BT)
            mask_B11T = nothing_BT[:, None, None]
        mixed_BHTK = F.scaled_dot_product_attention(
            query_BHTK, key_BHTK, value_BHTK, attn_mask=mask_B11T, scale=self._scale
        )
        mixed_BTD: Tensor = self.out(mixed_BHTK.transpose(1, 2).flatten(2))
        return mixed_BTD

    def _read(self, x_BTD: Tensor, num_last: int | None) -> tuple[Tensor, ...]:
        """Return queries, keys and values; the queries of the last places alone if so asked."""
        if num_last is None:
            parts: tuple[Tensor, ...] = self.read(x_BTD).chunk(3, dim=2)
            return parts
        dim = x_BTD.shape[2]
        weight, bias = self.read.weight, self.read.bias
        query_BTD = F.linear(x_BTD[:, -num_last:], weight[:dim], bias[:dim])
        return query_BTD, *F.linear(x_BTD, weight[dim:], bias[dim:]).chunk(2, dim=2)


class AttentionBlock(nn.Module):
    """Pre-norm self-attention and a network four times as wide, each added to what it read."""

    def __init__(self, dim: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm, self.attend = nn.LayerNorm(dim), SelfAttention(dim, heads, scaled=True)
        self.wide = nn.Sequential(nn.LayerNorm(dim), mlp(dim, 4 * dim, dim, dropout=dropout))
        self.drop: nn.Module = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x_BTD: Tensor, real_BT: Tensor, *, num_last: int | None = None) -> Tensor:
        """Return ``[B, T, D]``; what stands at places that are not real means nothing.

        With ``num_last`` only so many of the last places are computed.
        """
        attended_BTD = self.attend(self.norm(x_BTD), real_BT, num_last=num_last)
        x_BTD = x_BTD[:, -(num_last or x_BTD.shape[1]) :] + self.drop(attended_BTD)
        out_BTD: Tensor = x_BTD + self.drop(self.wide(x_BTD))
        return out_BTD


def hide(logits: Tensor, real: Tensor) -> Tensor:
    """Return the logits with the lowest finite number where nothing is: no NaN if nothing is."""
    return logits.masked_fill(~real, torch.finfo(logits.dtype).min)


def right_aligned(packed: Packed, *, longest: int) -> Tensor:
    """Return ``[B, T]``, each row's last values (at most ``longest``) with zeros before them."""
    length_B = packed.offsets_B1.diff()
    width = min(int(length_B.max()) if len(length_B) else 0, longest)
    place_T = torch.arange(-max(width, 1), 0, device=length_B.device)
    real_BT = place_T >= -length_B[:, None]
    at_BT = torch.where(real_BT, packed.offsets_B1[1:, None] + place_T, 0)
    values_V = packed.values_V if len(packed.values_V) else packed.values_V.new_zeros(1)
    return values_V[at_BT] * real_BT
