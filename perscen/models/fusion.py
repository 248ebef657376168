"""Mixing a node's hidden states with the preference, eqs. (13)-(15), and its ablations.

Every fusion takes the hidden states ``h(0) .. h(L)`` once per user or item and the preference once
per distinct row, each with the index that spreads it over the output rows (None: already aligned).
What depends on one of them alone is computed on its own rows.

Letters: M rows of hidden states, K rows of preference, P output rows, E width of a flattened hidden
state, W width of the fusion, G width of the output.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perscen.models.config import PerscenConfig
from perscen.models.gather import spread


class Fused(NamedTuple):
    """A tower's vectors ``[P, G]``, and what can be looked at."""

    vector_PG: Tensor
    gates: list[Tensor]
    """Gate of each unit before its logistic, ``[P, W]``; none without gated units."""
    alpha: Tensor | None
    """Eq. (14): ``[P, 1]``, or ``[P, W]`` for a vector gate; None without it."""


class FinalGate(nn.Module):
    """``alpha g + (1 - alpha) p_hat``, eqs. (14), (15)."""

    def __init__(self, width: int, config: PerscenConfig) -> None:
        super().__init__()
        out = 1 if config.gate_out == "scalar" else width
        self.state = nn.Linear(width, out, bias=config.glu.bias)
        self.preference = nn.Linear(width, out, bias=False)

    def forward(
        self, state_PW: Tensor, preference_KW: Tensor, index_P: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the mixture ``[P, W]`` and ``alpha``."""
        weighed = spread(self.preference(preference_KW), index_P)
        alpha = torch.sigmoid(self.state(state_PW) + weighed)
        # No layer made a learned constant, so in mixed precision it is still a wide one.
        preference_PW = spread(preference_KW, index_P).to(state_PW.dtype)
        return torch.lerp(preference_PW, state_PW, alpha), alpha


class GluFusion(nn.Module):
    """Progressive gated units, eq. (13), then the final gate.

    ``W_r1`` and ``W_r3`` stand above each other in ``hidden`` and ``state``, split into the columns
    that read ``h(l)`` and those that read ``g(l-1)``; ``W_r2`` and ``W_r4`` in ``preference``.
    """

    def __init__(self, flat: int, width: int, config: PerscenConfig) -> None:
        super().__init__()
        layers, bias = config.gnn.layers, config.glu.bias
        self.hidden = nn.ModuleList(nn.Linear(flat, 2 * width, bias=bias) for _ in range(layers))
        self.state = nn.ModuleList(
            nn.Linear(width if layer else flat, 2 * width, bias=False) for layer in range(layers)
        )
        self.preference = nn.ModuleList(
            nn.Linear(width, 2 * width, bias=False) for _ in range(layers)
        )
        self.gate = FinalGate(width, config)
        self.out = nn.Linear(width, config.out_dim) if config.glu.width == "fields" else None
        if config.glu.init == "lecun":
            for linear in (*self.hidden, *self.state):
                _start_by_lecun(linear)

    def forward(
        self,
        hidden: list[Tensor],
        preference_KW: Tensor,
        hidden_index_P: Tensor | None = None,
        preference_index_P: Tensor | None = None,
    ) -> Fused:
        """Return the vectors; ``hidden`` holds ``h(0) .. h(L)``, each ``[M, E]``."""
        gates, state = [], hidden[0]
        for layer, (of_hidden, of_state, of_preference) in enumerate(
            zip(self.hidden, self.state, self.preference, strict=True)
        ):
            own = of_hidden(hidden[layer + 1])
            if layer == 0:  # g(0) = h(0) is on the hidden states' rows too
                own += of_state(state)
            both = spread(of_preference(preference_KW), preference_index_P)
            both += spread(own, hidden_index_P)
            if layer:
                both += of_state(state)
            state = F.glu(both, dim=1)
            gates.append(both[:, both.shape[1] // 2 :])
        mixed_PW, alpha = self.gate(state, preference_KW, preference_index_P)
        return Fused(mixed_PW if self.out is None else self.out(mixed_PW), gates, alpha)


def _start_by_lecun(linear: nn.Linear) -> None:
    """Start a layer whose outputs vary as its inputs do (LeCun et al. 1998, *Efficient BackProp*).

    ``nn.Linear`` starts with a third of that variance and with biases as large. A logistic gate
    halves what passes it, so after a few units all rows would be nearly the same vector.
    """
    nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


class GruFusion(nn.Module):
    """GRU cells in place of the gated units."""

    def __init__(self, flat: int, width: int, config: PerscenConfig) -> None:
        super().__init__()
        self.start = nn.Linear(flat, width, bias=False)
        self.cells = nn.ModuleList(
            nn.GRUCell(flat + width, width) for _ in range(config.gnn.layers)
        )
        self.gate = FinalGate(width, config)

    def forward(
        self,
        hidden: list[Tensor],
        preference_KW: Tensor,
        hidden_index_P: Tensor | None = None,
        preference_index_P: Tensor | None = None,
    ) -> Fused:
        """Return the vectors; ``hidden`` holds ``h(0) .. h(L)``, each ``[M, E]``."""
        preference_PW = spread(preference_KW, preference_index_P)
        state_PW = spread(self.start(hidden[0]), hidden_index_P)
        for cell, hidden_ME in zip(self.cells, hidden[1:], strict=True):
            read = torch.cat([spread(hidden_ME, hidden_index_P), preference_PW], dim=1)
            state_PW = cell(read, state_PW)
        mixed_PW, alpha = self.gate(state_PW, preference_KW, preference_index_P)
        return Fused(mixed_PW, [], alpha)


class DirectFusion(nn.Module):
    """No unit in between: ``g = W h(L)``, then the final gate (ablation "w/o GLU")."""

    def __init__(self, flat: int, width: int, config: PerscenConfig) -> None:
        super().__init__()
        self.hidden = nn.Linear(flat, width, bias=False)
        self.gate = FinalGate(width, config)

    def forward(
        self,
        hidden: list[Tensor],
        preference_KW: Tensor,
        hidden_index_P: Tensor | None = None,
        preference_index_P: Tensor | None = None,
    ) -> Fused:
        """Return the vectors; ``hidden`` holds ``h(0) .. h(L)``, each ``[M, E]``."""
        state_PW = spread(self.hidden(hidden[-1]), hidden_index_P)
        mixed_PW, alpha = self.gate(state_PW, preference_KW, preference_index_P)
        return Fused(mixed_PW, [], alpha)


class ConcatFusion(nn.Module):
    """``W [h(L), p_hat]`` and nothing else (``fusion: direct_concat``)."""

    def __init__(self, flat: int, width: int, config: PerscenConfig) -> None:
        super().__init__()
        self.hidden = nn.Linear(flat, config.out_dim, bias=False)
        self.preference = nn.Linear(width, config.out_dim, bias=False)

    def forward(
        self,
        hidden: list[Tensor],
        preference_KW: Tensor,
        hidden_index_P: Tensor | None = None,
        preference_index_P: Tensor | None = None,
    ) -> Fused:
        """Return the vectors; ``hidden`` holds ``h(0) .. h(L)``, each ``[M, E]``."""
        vector_PG = spread(self.hidden(hidden[-1]), hidden_index_P)
        return Fused(
            vector_PG + spread(self.preference(preference_KW), preference_index_P), [], None
        )


FUSIONS = {
    "glu": GluFusion,
    "gru": GruFusion,
    "direct": DirectFusion,
    "direct_concat": ConcatFusion,
}


def fusion_width(flat: int, config: PerscenConfig) -> int:
    """Return the width W of ``g`` and ``p_hat``: ``out_dim`` or the fields'."""
    wide = config.fusion == "glu" and config.glu.width == "fields"
    return flat if wide else config.out_dim
