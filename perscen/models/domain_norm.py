"""Batch normalisation with statistics of each scenario's own rows (ADIN).

Letters: B rows, S scenarios, W width.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perscen.models.gather import spread
from perscen.models.precision import full_precision
from perscen.models.ranks import num_ranks, sum_over_ranks

NEW_SHARE: Final = 0.1
"""What a batch adds to the moving statistics; the rest stays as it was."""

EPS: Final = 1e-5


class DomainNorm(nn.Module):
    """Scales each column by its mean and variance over the rows of the same scenario.

    In training these are the batch's (of all ranks), each row counted as often as it occurs in the
    pairs of the batch, so that rows may be computed once for many; in use they are moving averages.
    The variance is the plain mean of squares: corrected by the number of rows it would depend on
    how often each is counted.
    """

    def __init__(self, num_scenarios: int, width: int) -> None:
        super().__init__()
        self.scale_SW = nn.Parameter(torch.ones(num_scenarios, width))
        self.shift_SW = nn.Parameter(torch.zeros(num_scenarios, width))
        self.register_buffer("mean_SW", torch.zeros(num_scenarios, width))
        self.register_buffer("variance_SW", torch.ones(num_scenarios, width))
        self.mean_SW: Tensor
        self.variance_SW: Tensor

    def forward(self, x_BW: Tensor, scenario_B: Tensor, count_B: Tensor | None) -> Tensor:
        """Return the rows scaled.

        Args:
            x_BW: The rows.
            scenario_B: Scenario of each.
            count_B: How many equal rows each stands for; None: all for equally many.
        """
        with full_precision(x_BW):
            return self._scaled(x_BW.to(self.scale_SW.dtype), scenario_B, count_B)

    def _scaled(self, x_BW: Tensor, scenario_B: Tensor, count_B: Tensor | None) -> Tensor:
        if not self.training:
            centred_BW = x_BW - spread(self.mean_SW, scenario_B)
            variance_SW = self.variance_SW
        else:
            # A product with a 0/1 matrix sums by scenario, in the same order every time.
            member_SB = F.one_hot(scenario_B, len(self.scale_SW)).T.to(x_BW)
            if count_B is not None:
                member_SB = member_SB * count_B
            total_S1 = _over_ranks(member_SB.sum(dim=1, keepdim=True))
            share_S1 = 1 / total_S1.clamp(min=1)
            mean_SW = _over_ranks(member_SB @ x_BW) * share_S1
            centred_BW = x_BW - spread(mean_SW, scenario_B)
            variance_SW = _over_ranks(member_SB @ centred_BW.square()) * share_S1
            self._follow(mean_SW, variance_SW, total_S1 > 0)
        factor_SW = self.scale_SW * torch.rsqrt(variance_SW + EPS)
        return centred_BW * spread(factor_SW, scenario_B) + spread(self.shift_SW, scenario_B)

    @torch.no_grad()
    def _follow(self, mean_SW: Tensor, variance_SW: Tensor, present_S1: Tensor) -> None:
        """Move the averages of the scenarios that the batch has rows of."""
        for kept_SW, now_SW in ((self.mean_SW, mean_SW), (self.variance_SW, variance_SW)):
            kept_SW.copy_(torch.where(present_S1, kept_SW.lerp(now_SW, NEW_SHARE), kept_SW))


class _SumOverRanks(torch.autograd.Function):
    """The sum over ranks; every rank's loss depends on it, so its gradient is a sum as well."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004
        (total,) = sum_over_ranks(value)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        (total,) = sum_over_ranks(gradient)
        return total


def _over_ranks(value: Tensor) -> Tensor:
    if num_ranks() == 1:
        return value
    total: Tensor = _SumOverRanks.apply(value)  # type: ignore[no-untyped-call]
    return total
