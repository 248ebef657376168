"""The candidate as a ranker: through the index that will ship, and by exact search.

Letters: Q queries, K results, V items (position ``v`` is item row ``v + FIRST_ROW``), G width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perscen.data.batches import ItemSource, UserSource
from perscen.data.splits import Queries, Ragged, Slices, Splits
from perscen.errors import ArtifactError
from perscen.evaluation.baselines import NOTHING, Ranker
from perscen.evaluation.metrics import find_hits, mean_over_users
from perscen.models.two_tower import TwoTower
from perscen.retrieval.exact import catalogue_vectors, exact_top_k, query_vectors
from perscen.retrieval.index import ScenarioIndex
from perscen.schema import FIRST_ROW

Longs = NDArray[np.int64]
Search = Callable[[Tensor, int], Longs]
"""Best item positions ``[Q, K]`` for query vectors ``[Q, G]`` of one scenario."""

_RECALL_QUERIES: Final = 2_000


class ModelRanker:
    """Searches each query's vector among the item vectors of its scenario."""

    def __init__(
        self, vectors_QG: Tensor, queries: Queries, search_of: Callable[[int], Search]
    ) -> None:
        """``search_of`` opens a scenario's search by its index; one is kept open at a time."""
        self._vectors_QG = vectors_QG
        self._scenario_Q = np.asarray(queries.scenario)
        self._search_of = search_of
        self._open: tuple[int, Search] | None = None

    def rank(self, rows_Q: Longs, k: int) -> Longs:
        """Return item rows ``[Q, K]``, as :meth:`perscen.evaluation.baselines.Ranker.rank`."""
        found_QK = np.full((len(rows_Q), k), NOTHING, dtype=np.int64)
        for scenario in np.unique(self._scenario_Q[rows_Q]):
            here = np.flatnonzero(self._scenario_Q[rows_Q] == scenario)
            vectors = self._vectors_QG[torch.from_numpy(rows_Q[here])]
            positions = self._search(int(scenario))(vectors, k)
            found_QK[here, : positions.shape[1]] = np.where(
                positions < 0, NOTHING, positions + FIRST_ROW
            )
        return found_QK

    def _search(self, scenario: int) -> Search:
        if self._open is None or self._open[0] != scenario:
            self._open = (scenario, self._search_of(scenario))
        return self._open[1]


def candidate_rankers(
    model: TwoTower,
    splits: Splits,
    queries: Queries,
    slices: Slices,
    *,
    indexes: Path,
    fingerprint: str,
) -> tuple[ModelRanker, ModelRanker]:
    """Return the model as a ranker through its indexes, and by exact search.

    Args:
        model: The candidate, in evaluation mode.
        splits: What its queries and items are made of.
        queries: Evaluation queries, with their history ``slices``.
        slices: See ``queries``.
        indexes: Directory of the indexes.
        fingerprint: The space the model's vectors live in; an index of another space is refused.
    """
    vectors_QG = query_vectors(model, UserSource(splits), queries, slices)
    scenarios = splits.schema.scenarios

    def through_index(scenario: int) -> Search:
        index = open_index(indexes, scenarios, scenario, fingerprint=fingerprint, splits=splits)
        return lambda vectors, k: index.search(vectors, k)[1]

    def exactly(scenario: int) -> Search:
        items_VG = catalogue_vectors(model, ItemSource(splits.items), scenarios=[scenario])[0]
        return lambda vectors, k: exact_top_k(vectors, items_VG, k)[1].numpy()

    return (
        ModelRanker(vectors_QG, queries, through_index),
        ModelRanker(vectors_QG, queries, exactly),
    )


def open_index(
    directory: Path, scenarios: Sequence[str], scenario: int, *, fingerprint: str, splits: Splits
) -> ScenarioIndex:
    """Return a scenario's index after checking that it holds this model's items, in this order.

    Raises:
        ArtifactError: It was built from another model's vectors or another catalogue.
    """
    name = scenarios[scenario]
    index = ScenarioIndex.open(directory, name)
    if index.sidecar.fingerprint != fingerprint:
        raise ArtifactError(
            f"the index of scenario {name!r} holds vectors of space "
            f"{index.sidecar.fingerprint[:12]}, the model's are of {fingerprint[:12]}",
            hint="run `index` again on this model",
        )
    if not np.array_equal(index.item_ids_V, splits.items.ids[FIRST_ROW:]):
        raise ArtifactError(
            f"the index of scenario {name!r} lists {len(index.item_ids_V):,} items that are not "
            f"the {len(splits.items.ids) - FIRST_ROW:,} of the splits in their order",
            hint="run `index` again on these splits",
        )
    return index


def overlap(ranker: Ranker, reference: Ranker, queries: Queries, scenario: int, *, k: int) -> float:
    """Return the share of the reference's first ``k`` items that the ranker returns, in [0, 1].

    Measured on at most 2,000 queries of the scenario, evenly spaced.

    Raises:
        ValueError: The scenario has no query.
    """
    rows = np.flatnonzero(np.asarray(queries.scenario) == scenario)
    spaced = np.linspace(0, len(rows) - 1, min(len(rows), _RECALL_QUERIES)).astype(np.int64)
    wanted_QK = reference.rank(rows[spaced], k)
    lists = Ragged(
        offsets=np.concatenate([[0], np.cumsum((wanted_QK != NOTHING).sum(axis=1))]),
        values=wanted_QK[wanted_QK != NOTHING].astype(np.int32),
    )
    return mean_over_users(find_hits(ranker.rank(rows[spaced], k), lists).recall_at(k))
