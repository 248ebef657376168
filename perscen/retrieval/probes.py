"""Canary queries that travel with a bundle: what they ask, and what it answered when it was made.

Letters: B queries, K results, F fields, G width of the vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from perscen.data.batches import Packed, UserBatch
from perscen.errors import ArtifactError
from perscen.retrieval.pair import Pair
from perscen.retrieval.served import ServedUsers
from perscen.schema import FIRST_ROW, UNKNOWN_ROW

PROBE_K: Final = 20
_HISTORIES: Final = ("history", "spec_history", "shown")
_BY_SCENARIO: Final = "by_scenario"
# Another processor rounds differently. Vectors agree to this share of their length, but a query on
# the border between two codes, or a score at the cut, may then fall on the other side.
_TOLERANCE: Final = 1e-3
_ENOUGH: Final = 0.98


@dataclass(frozen=True)
class Probes:
    """Queries with the vectors and the top items they must get."""

    users: UserBatch
    vectors_BG: Tensor
    scores_BK: NDArray[np.float32]
    items_BK: NDArray[np.str_]

    @classmethod
    def ask(cls, pair: Pair, users: ServedUsers, *, num_users: int) -> Probes:
        """Return the pair's answers to ``num_users`` canary users in each of its scenarios.

        The first is the unknown user; the others stand evenly spaced in the user table.
        """
        last = len(users.features.ids) - 1
        spaced = np.linspace(FIRST_ROW, last, min(num_users - 1, last + 1 - FIRST_ROW))
        rows = np.unique(np.append(spaced.astype(np.int64), UNKNOWN_ROW))
        scenarios = [pair.model.schema.scenario_index(name) for name in pair.indexes]
        batch = users.batch(np.tile(rows, len(scenarios)), np.repeat(scenarios, len(rows)))
        vectors_BG = pair.encode(batch)
        scores_BK, items_BK = pair.search(vectors_BG, batch.scenario_B, PROBE_K)
        return cls(batch, vectors_BG, scores_BK, items_BK)

    def check(self, pair: Pair) -> None:
        """Ask again, and compare.

        Raises:
            ArtifactError: The tower or an index no longer gives the recorded answers.
        """
        vectors_BG = pair.encode(self.users)
        gap_B = (vectors_BG - self.vectors_BG).norm(dim=1)
        close_B = gap_B <= _TOLERANCE * (1 + self.vectors_BG.norm(dim=1))
        scores_BK, items_BK = pair.search(vectors_BG, self.users.scenario_B, PROBE_K)
        # Lists are compared place by place on scores and as sets on items: an item of equal score
        # may stand in for another.
        same = np.abs(scores_BK - self.scores_BK) <= _TOLERANCE * (1 + np.abs(self.scores_BK))
        found = [np.isin(a, b).mean() for a, b in zip(self.items_BK, items_BK, strict=True)]
        shares = (float(close_B.float().mean()), float(same.mean()), float(np.mean(found)))
        if min(shares) < _ENOUGH:
            raise ArtifactError(
                f"{len(found)} probes get {shares[0]:.1%} of the recorded vectors, "
                f"{shares[1]:.1%} of the scores and {shares[2]:.1%} of the items; expected "
                f"{_ENOUGH:.0%} or more",
                hint="this copy or this machine does not give what was released; do not serve it",
            )

    def save(self, path: Path) -> None:
        """Write the probes as Parquet, one row per query."""
        users = self.users
        columns = {
            "scenario": pa.array(users.scenario_B.numpy()),
            "categorical": _matrix(users.categorical_BF),
            "dense": _matrix(users.dense_BF),
            **{f"bag_{number}": _lists(bag) for number, bag in enumerate(users.bags)},
            **{name: _lists(getattr(users, name)) for name in _HISTORIES},
            _BY_SCENARIO: _lists_of_lists(users.by_scenario(), len(users.scenario_B)),
            "vector": _matrix(self.vectors_BG),
            "scores": pa.array(self.scores_BK.tolist(), pa.list_(pa.float32())),
            "items": pa.array(self.items_BK.tolist(), pa.list_(pa.string())),
        }
        pq.write_table(pa.table(columns), path)

    @classmethod
    def open(cls, path: Path) -> Probes:
        """Return the probes that :meth:`save` wrote."""
        table = pq.read_table(path)
        bags = [name for name in table.column_names if name.startswith("bag_")]
        histories = {name: _packed(table[name]) for name in _HISTORIES}

        def by_scenario() -> Packed:
            return _packed(pa.chunked_array([table[_BY_SCENARIO].combine_chunks().values]))

        return cls(
            users=UserBatch(
                categorical_BF=_rows(table["categorical"]).long(),
                dense_BF=_rows(table["dense"]).float(),
                bags=tuple(_packed(table[name]) for name in bags),
                scenario_B=torch.tensor(table["scenario"].to_pylist(), dtype=torch.int64),
                by_scenario=by_scenario,
                **histories,
            ),
            vectors_BG=_rows(table["vector"]).float(),
            scores_BK=np.array(table["scores"].to_pylist(), np.float32),
            items_BK=np.array(table["items"].to_pylist(), np.str_),
        )


def _matrix(values_BF: Tensor) -> pa.Array:
    flat = pa.array(values_BF.contiguous().view(-1).numpy())
    offsets = np.arange(len(values_BF) + 1, dtype=np.int32) * values_BF.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), flat)


def _lists(packed: Packed) -> pa.Array:
    offsets = pa.array(packed.offsets_B1.numpy().astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(packed.values_V.numpy()))


def _lists_of_lists(packed: Packed, num_rows: int) -> pa.Array:
    """Return a column whose row holds as many of the lists as every other row, in their order."""
    lists = _lists(packed)
    offsets = np.linspace(0, len(lists), num_rows + 1).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), lists)


def _rows(column: pa.ChunkedArray) -> Tensor:
    return torch.tensor(column.to_pylist())


def _packed(column: pa.ChunkedArray) -> Packed:
    lists = column.combine_chunks()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return Packed(
        values_V=torch.from_numpy(np.array(lists.values.to_numpy(), np.int64)),
        offsets_B1=torch.from_numpy(offsets),
    )
