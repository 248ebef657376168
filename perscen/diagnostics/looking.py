"""What a trained model does with the queries of a window, block by block.

Letters: Q queries, K codes, Z preference width, S scenarios.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from perscen.data.batches import UserBatch, UserSource
from perscen.data.splits import Splits
from perscen.diagnostics.codes import (
    Counts,
    divergence,
    divergence_by_chance,
    share_on_codes_of,
    use_of,
)
from perscen.diagnostics.gates import gate_table, gates_of
from perscen.errors import ConfigError
from perscen.models.embedding import count_values
from perscen.models.perscen import Perscen
from perscen.models.two_tower import TwoTower

Window = Literal["valid", "test"]

_AT_ONCE: Final = 1024


@dataclass(frozen=True)
class HistoryCodes:
    """What enters the quantiser and where it falls, a row per query with clicks in its scenario.

    Users without such clicks all enter alike, and would count as agreement between scenarios.
    """

    scenario_Q: NDArray[np.int64]
    vector_QZ: NDArray[np.float32]
    code_Q: NDArray[np.int64]
    counts_SK: Counts
    empty_S: NDArray[np.int64]
    """Queries of each scenario without clicks in it, which are left out."""
    distortion: float | None
    """Mean squared distance to the own code, as a share of the vectors' variance; None: no rows."""
    spread: float | None
    """Root of the vectors' variance over the length of their mean: near 0, a history says nothing,
    because whatever was clicked enters alike. None: no rows."""


def with_part(model: TwoTower, part: str, *, there: bool = True) -> Perscen:
    """Return the model as one whose parts can be looked at.

    Raises:
        ConfigError: It is of a family, or has settings, without that part.
    """
    if isinstance(model, Perscen) and there:
        return model
    raise ConfigError(
        f"the model ({model.family}) has no {part} to look at",
        hint="these diagnostics are for a model of family perscen whose settings keep that part",
    )


def history_codes(model: TwoTower, splits: Splits, *, window: Window) -> HistoryCodes:
    """Return what the codebook does with the queries of a window.

    Raises:
        ConfigError: The model has no codebook, or the window no queries.
    """
    perscen = with_part(model, "codebook", there=model.num_codes > 0)
    quantise = perscen.user_preference.quantise
    assert quantise is not None, "a model with codes has a quantiser"
    scenarios, vectors, codes, empty = [], [], [], []
    with torch.inference_mode():
        for users in _blocks(splits, window):
            own_B = count_values(users.spec_history) > 0
            z_BZ = perscen.user_preference.project(perscen.pool_items(users.spec_history))[own_B]
            vectors.append(z_BZ.numpy())
            codes.append(quantise.nearest(z_BZ).numpy())
            scenarios.append(users.scenario_B[own_B].numpy())
            empty.append(users.scenario_B[~own_B].numpy())
        code_KZ = quantise.codes_KZ.detach().numpy()
    vector_QZ, code_Q, scenario_Q = (np.concatenate(b) for b in (vectors, codes, scenarios))
    num = len(splits.schema.scenarios)
    counts_SK = np.zeros((num, model.num_codes), dtype=np.int64)
    np.add.at(counts_SK, (scenario_Q, code_Q), 1)
    distortion, spread = _measure(vector_QZ, code_KZ[code_Q]) if len(vector_QZ) else (None, None)
    return HistoryCodes(
        scenario_Q=scenario_Q,
        vector_QZ=vector_QZ,
        code_Q=code_Q,
        counts_SK=counts_SK,
        empty_S=np.bincount(np.concatenate(empty), minlength=num),
        distortion=distortion,
        spread=spread,
    )


def _measure(vector_QZ: NDArray[np.float32], own_QZ: NDArray[np.float32]) -> tuple[float, float]:
    """Return distortion and spread of vectors and the code of each."""
    variance = max(float(vector_QZ.var(axis=0).sum()), 1e-12)
    distance = float(((vector_QZ - own_QZ) ** 2).sum(axis=1).mean())
    length = max(float(np.linalg.norm(vector_QZ.mean(axis=0))), 1e-12)
    return distance / variance, variance**0.5 / length


def code_table(seen: HistoryCodes, *, names: tuple[str, ...]) -> pl.DataFrame:
    """Return a row per scenario: how the codebook is used, and the queries on each code."""
    rows = []
    for name, counts_K, empty in zip(names, seen.counts_SK, seen.empty_S, strict=True):
        use = use_of(counts_K)
        row = (name, use.num_rows, int(empty), use.used, use.dead, use.perplexity)
        rows.append((*row, *map(int, counts_K)))
    columns = ["scenario", "queries", "without_history", "used", "dead", "perplexity"]
    columns += [f"code_{n}" for n in range(seen.counts_SK.shape[1])]
    return pl.DataFrame(rows, schema=columns, orient="row")


def overlap_table(seen: HistoryCodes, *, names: tuple[str, ...]) -> pl.DataFrame:
    """Return a row per pair of scenarios, the one with fewer queries first.

    ``divergence`` is Jensen-Shannon's, in bits; below ``by_chance`` (the 95 % point for two equal
    scenarios of these sizes) it shows no difference. A scenario without queries is left out.
    """
    queries_S = seen.counts_SK.sum(axis=1)
    share_SS = share_on_codes_of(seen.counts_SK)
    order = [int(s) for s in np.argsort(queries_S, kind="stable") if queries_S[s]]
    rows = [
        (
            names[few],
            names[many],
            int(queries_S[few]),
            int(queries_S[many]),
            float(share_SS[few, many]),
            divergence(seen.counts_SK[few], seen.counts_SK[many]),
            divergence_by_chance(seen.counts_SK[few], seen.counts_SK[many]),
        )
        for n, few in enumerate(order)
        for many in order[n + 1 :]
    ]
    columns = ["sparse", "rich", "queries", "rich_queries", "on_shared_codes"]
    columns += ["divergence", "by_chance"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def gate_activations(model: TwoTower, splits: Splits, *, window: Window) -> pl.DataFrame:
    """Return how far the gates are open on the queries of a window; see ``gate_table``.

    Raises:
        ConfigError: The model has no gates, or the window no queries.
    """
    fusion = getattr(getattr(model, "config", None), "fusion", "")
    perscen = with_part(model, "gate", there=fusion != "direct_concat")
    blocks = list(_blocks(splits, window))
    return gate_table(
        (gates_of(perscen.inspect(users)) for users in blocks),
        (users.scenario_B.numpy() for users in blocks),
        names=splits.schema.scenarios,
    )


def _blocks(splits: Splits, window: Window) -> Iterator[UserBatch]:
    queries, slices = (
        (splits.valid, splits.valid_slices)
        if window == "valid"
        else (splits.test, splits.test_slices)
    )
    if not len(queries.user):
        raise ConfigError(
            f"the {window} window has no queries, and there is nothing to look at",
            hint="look at another window, or make splits in which somebody clicks in this one",
        )
    users = UserSource(splits)
    for start in range(0, len(queries.user), _AT_ONCE):
        rows_Q = np.arange(start, min(start + _AT_ONCE, len(queries.user)), dtype=np.int64)
        yield users.batch(queries.user, queries.scenario, slices, rows_Q)
