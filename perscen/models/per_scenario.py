"""Parts of a model that belong to one scenario each: a row meets its own scenario's part alone.

Letters: B rows, S scenarios.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


class PerScenario(nn.ModuleList):
    """One module per scenario, in the schema's order.

    Each owns its parameters: a step without a row of a scenario gives them no gradient at all, so
    neither momentum nor weight decay moves them.
    """


class Routes:
    """Rows sorted by scenario, so that each scenario's part runs once, on its own rows.

    Args:
        scenario_B: Each row's scenario.
        num_scenarios: S.
    """

    def __init__(self, scenario_B: Tensor, num_scenarios: int) -> None:
        order_B = torch.argsort(scenario_B, stable=True)
        sizes: list[int] = torch.bincount(scenario_B, minlength=num_scenarios).tolist()
        self._rows = torch.split(order_B, sizes)
        self._back_B = torch.empty_like(order_B)
        self._back_B[order_B] = torch.arange(len(order_B), device=order_B.device)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """Yield each scenario that has rows, with their places in the batch.

        A batch without any row goes to the first scenario, so that there is an output to join.
        """
        present = [s for s, rows in enumerate(self._rows) if len(rows)] or [0]
        for scenario in present:
            yield scenario, self._rows[scenario]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the outputs of all parts, in the order of the batch."""
        joined = parts[0] if len(parts) == 1 else torch.cat(list(parts))
        return joined[self._back_B]
