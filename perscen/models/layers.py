"""Layers that several families are made of.

Letters: M rows computed once, S scenarios, P output rows, D embedding width, W width of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from perscen.models.gather import spread


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU, dropout: float = 0.0) -> nn.Sequential:
    """Return linear layers with an activation between them and a linear output."""
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [nn.Linear(wide, narrow), activation()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers[: -2 if dropout else -1])


class ScenarioMlp(nn.Module):
    """An MLP on ``[x, e_s]`` whose first layer is computed once per row and once per scenario.

    Without a scenario the whole MLP is computed once per row.

    Args:
        wide: Width of ``x``.
        scenario: Width of ``e_s``; 0 for an MLP on ``x`` alone.
        widths: Of the layers, the output's last.
        dropout: After each hidden layer.
    """

    def __init__(self, wide: int, scenario: int, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(wide, widths[0])
        self.scenario = nn.Linear(scenario, widths[0], bias=False) if scenario else None
        self.rest = mlp(*widths, dropout=dropout) if len(widths) > 1 else None
        self.drop: nn.Module = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(
        self,
        x_MW: Tensor,
        scenario_SD: Tensor | None = None,
        index_P: Tensor | None = None,
        scenario_P: Tensor | None = None,
    ) -> Tensor:
        """Return ``[P, W]``; ``index_P`` and ``scenario_P`` say which row and scenario (None: all).

        Args:
            x_MW: The rows.
            scenario_SD: ``e_s`` of every scenario, for an MLP that reads it.
            index_P: Row of ``x_MW`` of each output row; None when they are aligned already.
            scenario_P: Scenario of each output row.
        """
        first = self.first(x_MW)
        if self.scenario is None:
            return spread(self._after(first), index_P)
        assert scenario_SD is not None, "an MLP that reads the scenario is given its embedding"
        assert scenario_P is not None, "an MLP that reads the scenario is told which one"
        return self._after(spread(first, index_P) + spread(self.scenario(scenario_SD), scenario_P))

    def _after(self, first_PW: Tensor) -> Tensor:
        if self.rest is None:
            return first_PW
        out: Tensor = self.rest(self.drop(F.relu(first_PW)))
        return out
