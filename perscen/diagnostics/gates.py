"""How far the gates of a model are open, by scenario and layer.

Letters: Q queries, W units of a gate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from perscen.models.perscen import Inspection

Floats = NDArray[np.float64]

FINAL: Final = "final"
"""The gate of eqs. (14), (15), among the layers of eq. (13)."""
NEAR: Final = 0.1
"""How close to 0 or 1 an activation counts as shut or open."""


def gates_of(seen: Inspection) -> dict[str, Floats]:
    """Return the activations ``[Q, W]`` in (0, 1) of every gate by the name of its layer."""
    gates = {
        f"layer {n}": gate_QW.double().numpy() for n, gate_QW in enumerate(seen.gates_BW, start=1)
    }
    if seen.alpha is not None:
        gates[FINAL] = seen.alpha.double().numpy()
    return gates


def gate_table(
    gates: Iterable[Mapping[str, Floats]],
    scenarios_Q: Iterable[NDArray[np.int64]],
    *,
    names: Sequence[str],
) -> pl.DataFrame:
    """Return a row per scenario and layer, over all its queries and units.

    ``apart`` is how far a unit's mean in the scenario is from its mean in all scenarios alike: the
    mean distance over units, 0 for gates that do not mind the scenario. ``near_0`` and ``near_1``
    are the shares of activations within 0.1 of it.

    Args:
        gates: Activations of one block of queries after the other.
        scenarios_Q: The scenario of each query of the same blocks.
        names: Of the scenarios.
    """
    sums: dict[tuple[int, str], Floats] = {}
    for block, scenario_Q in zip(gates, scenarios_Q, strict=True):
        for layer, gate_QW in block.items():
            for scenario in np.unique(scenario_Q):
                key, own_5W = (int(scenario), layer), _sums(gate_QW[scenario_Q == scenario])
                sums[key] = sums[key] + own_5W if key in sums else own_5W
    means: dict[str, list[Floats]] = {}
    for (_, layer), (queries_W, total_W, *_) in sums.items():
        means.setdefault(layer, []).append(total_W / queries_W)
    rows = []
    for (scenario, layer), sums_5W in sorted(sums.items(), key=lambda item: item[0][0]):
        apart = np.abs(sums_5W[1] / sums_5W[0] - np.mean(means[layer], axis=0)).mean()
        num, total, squares, low, high = sums_5W.sum(axis=1)
        deviation = np.sqrt(max(squares / num - (total / num) ** 2, 0.0))
        told = (total / num, deviation, apart, low / num, high / num)
        rows.append((names[scenario], layer, int(sums_5W[0, 0]), *map(float, told)))
    columns = ["scenario", "layer", "queries", "mean", "sd", "apart", "near_0", "near_1"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def _sums(gate_QW: Floats) -> Floats:
    """Return ``[5, W]``: queries, activations, their squares, and how many are near 0 and 1."""
    return np.stack(
        [
            np.full(gate_QW.shape[1], float(len(gate_QW))),
            gate_QW.sum(axis=0),
            (gate_QW**2).sum(axis=0),
            (gate_QW < NEAR).sum(axis=0),
            (gate_QW > 1 - NEAR).sum(axis=0),
        ]
    )
