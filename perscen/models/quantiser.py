"""The codebook shared by all scenarios, eqs. (8)-(10), with its options.

In a training shared by several ranks, upkeep and loss are those of the whole batch on every rank.
Letters: B rows (of this rank), A rows of all ranks, K codes, S scenarios, Z preference width.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perscen.models.config import VqConfig
from perscen.models.precision import full_precision
from perscen.models.ranks import copy_from_rank_0, gather_rows, sum_over_ranks

JITTER: Final = 1e-3
"""Spread added to repeated starting codes, when a batch has fewer distinct rows than codes."""

KMEANS_ROUNDS: Final = 10

EMA_SMOOTHING: Final = 1e-5
"""Keeps the mean of a code without rows finite."""

EMA_LEAST_SHARE: Final = 1e-4
"""Share of the rows below which a code stays where it is: its mean is then more and more of the
smoothing, which would carry it to the origin."""


class Quantised(NamedTuple):
    """``p`` of eq. (9), this rank's part of the loss of eq. (10), and each row's code."""

    preference_BZ: Tensor
    loss: Tensor
    codes_B: Tensor


class Quantiser(nn.Module):
    """Adds to each row its nearest code: ``p = z + c_j``, eqs. (8)-(10).

    In training mode it also keeps the codebook, as the settings say: starts it from the first
    batch, follows it by moving averages, and revives dead codes.
    """

    def __init__(self, dim: int, config: VqConfig, *, num_scenarios: int = 1) -> None:
        super().__init__()
        self.config = config
        self._num_scenarios = num_scenarios
        num = config.codebook_size
        codes_KZ = torch.empty(num, dim).uniform_(-1 / num, 1 / num)
        if config.ema_decay is None:
            self.codes_KZ: Tensor = nn.Parameter(codes_KZ)
        else:
            self.register_buffer("codes_KZ", codes_KZ)
            self.register_buffer("share_K", torch.full((num,), 1 / num))
            self.register_buffer("mean_KZ", codes_KZ / num)
        if config.init != "uniform":
            self.register_buffer("started", torch.tensor(False))
        if config.revive_after is not None:
            self.register_buffer("idle_K", torch.zeros(num, dtype=torch.int64))
            self.register_buffer("used_SK", torch.zeros(num_scenarios, num, dtype=torch.bool))
        self.started: Tensor
        self.share_K: Tensor
        self.mean_KZ: Tensor
        self.idle_K: Tensor
        self.used_SK: Tensor

    @property
    def starts(self) -> bool:
        """Whether the codes are still to be started from the rows of a batch."""
        return self.training and self.config.init != "uniform" and not bool(self.started)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **options: Any
    ) -> None:
        if self.config.revive_after is not None:
            # Models saved before have none: no answer depends on it, and training finds it again.
            state_dict.setdefault(f"{prefix}used_SK", self.used_SK)
        super()._load_from_state_dict(state_dict, prefix, *args, **options)

    def forward(
        self,
        z_BZ: Tensor,
        counted_B: Tensor | None = None,
        scenario_B: Tensor | None = None,
    ) -> Quantised:
        """Return each row plus its nearest code.

        Args:
            z_BZ: The encoder's output.
            counted_B: Bool, the rows that enter the loss and the codebook's upkeep; None for all.
            scenario_B: Each row's scenario; None when all are of the first.
        """
        if scenario_B is None:
            scenario_B = torch.zeros(len(z_BZ), dtype=torch.int64, device=z_BZ.device)
        with full_precision(z_BZ):
            return self._quantise(z_BZ.to(self.codes_KZ.dtype), counted_B, scenario_B)

    def _quantise(self, z_BZ: Tensor, counted_B: Tensor | None, scenario_B: Tensor) -> Quantised:
        counted = slice(None) if counted_B is None else counted_B
        own_BZ = z_BZ.detach()[counted]
        if self.starts:
            self.start(own_BZ)
        codes_B = self.nearest(z_BZ.detach())
        code_BZ = F.embedding(codes_B, self.codes_KZ)
        num_rows = self._count(own_BZ)
        loss = self._loss(z_BZ, code_BZ, counted_B, num_rows)
        if self.training and num_rows:
            self._keep(own_BZ, codes_B[counted], scenario_B[counted], num_rows)
        return Quantised(self._add(z_BZ, code_BZ), loss, codes_B)

    @torch.no_grad()
    def nearest(self, z_BZ: Tensor) -> Tensor:
        """Return ``[B]``, each row's nearest code; of equally near ones the first."""
        distance_BK = (z_BZ[:, None] - self.codes_KZ).square().sum(dim=2)
        return distance_BK.argmin(dim=1)

    def _add(self, z_BZ: Tensor, code_BZ: Tensor) -> Tensor:
        if self.config.gradient == "literal":
            return z_BZ + code_BZ
        sum_BZ = z_BZ + code_BZ.detach()
        if self.config.gradient == "residual_only":
            return sum_BZ
        # The straight-through code z + sg[c - z] has the gradient of z: one more z of value 0.
        return sum_BZ + (z_BZ - z_BZ.detach())

    def _count(self, own_BZ: Tensor) -> int:
        """Return the counted rows of the whole batch; outside of training there is no other part.

        Validation queries are shared too, but nothing follows from them as a whole.
        """
        if not self.training:
            return len(own_BZ)
        (total,) = sum_over_ranks(torch.tensor(len(own_BZ), device=own_BZ.device))
        return int(total)

    def _loss(
        self, z_BZ: Tensor, code_BZ: Tensor, counted_B: Tensor | None, num_rows: int
    ) -> Tensor:
        """Eq. (10): squared norms, averaged over the counted rows of all ranks."""
        loss_B = self.config.beta * (z_BZ - code_BZ.detach()).square().sum(dim=1)
        if self.config.ema_decay is None:
            loss_B = (z_BZ.detach() - code_BZ).square().sum(dim=1) + loss_B
        if counted_B is not None:
            loss_B = loss_B * counted_B
        return loss_B.sum() / max(num_rows, 1)

    @torch.no_grad()
    def start(self, z_AZ: Tensor) -> None:
        """Set the codes to distinct rows of the first batch, or to the centres of its clusters.

        A batch without rows starts nothing.
        """
        if not len(z_AZ):
            return
        z_AZ = z_AZ.detach().to(self.codes_KZ.dtype)
        num = self.config.codebook_size
        distinct = torch.unique(z_AZ, dim=0)
        picked = distinct[torch.randperm(len(distinct), device=z_AZ.device)[:num]]
        if len(picked) < num:
            repeated = picked[torch.arange(num - len(picked), device=z_AZ.device) % len(picked)]
            picked = torch.cat([picked, repeated + JITTER * torch.randn_like(repeated)])
        self.codes_KZ.copy_(picked)
        if self.config.init == "kmeans":
            for _ in range(KMEANS_ROUNDS):
                onehot_AK = self._onehot(self.nearest(z_AZ), z_AZ)
                share_K = onehot_AK.sum(dim=0) / len(z_AZ)
                mean_KZ = onehot_AK.T @ z_AZ / len(z_AZ)
                used_K = share_K > 0
                self.codes_KZ[used_K] = mean_KZ[used_K] / share_K[used_K, None]
        # Each rank draws its own numbers.
        copy_from_rank_0(self.codes_KZ)
        if self.config.ema_decay is not None:
            self.mean_KZ.copy_(self.codes_KZ * self.share_K[:, None])
        self.started.fill_(True)

    @torch.no_grad()
    def _keep(self, z_BZ: Tensor, codes_B: Tensor, scenario_B: Tensor, num_rows: int) -> None:
        """Move the codes by their moving averages, then revive the dead ones."""
        if self.config.ema_decay is None and self.config.revive_after is None:
            return
        onehot_BS = F.one_hot(scenario_B, self._num_scenarios).to(z_BZ)
        onehot_BK = self._onehot(codes_B, z_BZ)
        rows_SK, sum_KZ = sum_over_ranks(onehot_BS.T @ onehot_BK, onehot_BK.T @ z_BZ)
        if self.config.ema_decay is not None:
            share_K, mean_KZ = rows_SK.sum(dim=0) / num_rows, sum_KZ / num_rows
            self._follow(share_K, mean_KZ, decay=self.config.ema_decay)
        if self.config.revive_after is not None:
            self._revive(z_BZ, self._dead(rows_SK, after=self.config.revive_after), num_rows)

    def _follow(self, share_K: Tensor, mean_KZ: Tensor, *, decay: float) -> None:
        self.share_K.lerp_(share_K, 1 - decay)
        self.mean_KZ.lerp_(mean_KZ, 1 - decay)
        moved_KZ = self.mean_KZ / (self.share_K + EMA_SMOOTHING)[:, None]
        in_use_K1 = self.share_K[:, None] > EMA_LEAST_SHARE
        self.codes_KZ.copy_(torch.where(in_use_K1, moved_KZ, self.codes_KZ))

    def _dead(self, rows_SK: Tensor, *, after: int) -> Tensor:
        """Return bool ``[K]``, the codes that nobody used for long.

        Batches of one scenario each let a sparse one wait: what its latest batch used is in use
        until its next says otherwise.
        """
        here_S1 = rows_SK.any(dim=1, keepdim=True)
        self.used_SK.copy_(torch.where(here_S1, rows_SK > 0, self.used_SK))
        self.idle_K += 1
        self.idle_K.masked_fill_(rows_SK.any(dim=0), 0)
        return (self.idle_K >= after) & ~self.used_SK.any(dim=0)

    def _revive(self, z_BZ: Tensor, dead_K: Tensor, num_rows: int) -> None:
        """Move dead codes onto random rows of the whole batch."""
        chosen_K = torch.randint(num_rows, (len(dead_K),), device=z_BZ.device)
        if not bool(dead_K.any()):
            return
        chosen_K = copy_from_rank_0(chosen_K)
        self.codes_KZ[dead_K] = gather_rows(z_BZ)[chosen_K[dead_K]].to(self.codes_KZ.dtype)
        if self.config.ema_decay is not None:
            self.share_K[dead_K] = 1 / len(dead_K)
            self.mean_KZ[dead_K] = self.codes_KZ[dead_K] / len(dead_K)
        self.idle_K[dead_K] = 0

    def _onehot(self, codes_B: Tensor, like: Tensor) -> Tensor:
        return F.one_hot(codes_B, self.config.codebook_size).to(like)
