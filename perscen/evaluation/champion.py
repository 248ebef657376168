"""The champion as a ranker: today's queries put to yesterday's bundle, in its own vocabularies.

Ids and raw values are what two releases share; rows are not. Today's rows go through their raw
values into the champion's rows, and what it retrieves goes through item ids back into today's rows.
Users, values and items that it does not know are unknown to it, as they are when it serves.

Letters: Q queries, K results, R table rows, F fields, V items.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perscen.data.batches import UserSource
from perscen.data.splits import FeatureTable, Ints, Queries, Ragged, Slices, Splits
from perscen.evaluation.baselines import NOTHING
from perscen.retrieval.bundle import Bundle
from perscen.retrieval.exact import query_vectors
from perscen.retrieval.index import ScenarioIndex
from perscen.schema import FIRST_ROW, MISSING_ROW, UNKNOWN_ROW, Schema

Longs = NDArray[np.int64]

_RESERVED: Final = (UNKNOWN_ROW, MISSING_ROW)


class ChampionRanker:
    """Answers through the champion's own indexes; with nothing in a scenario it does not serve."""

    def __init__(self, bundle: Bundle, splits: Splits, queries: Queries, slices: Slices) -> None:
        self._scenario_Q = np.asarray(queries.scenario)
        self._shelves: dict[int, _Shelf] = {}
        served = bundle.manifest.scenarios
        names = splits.schema.scenarios
        for fingerprint in bundle.fingerprints:
            pair = bundle.open_pair(fingerprint)
            knowledge = _Knowledge.read(bundle.model_directory(fingerprint))
            translated, then_slices = _in_words_of(knowledge, pair.model.schema, splits, slices)
            users = UserSource(translated)
            for number, name in enumerate(names):
                if served.get(name) != fingerprint:
                    continue
                rows = np.flatnonzero(self._scenario_Q == number)
                asked = _queries(queries, rows, scenario=pair.model.schema.scenario_index(name))
                vectors = query_vectors(
                    pair.model,
                    users,
                    asked,
                    _latest(then_slices, rows, pair.model.schema.max_seq_len),
                )
                index = pair.indexes[name]
                self._shelves[number] = _Shelf(
                    vectors=vectors,
                    rows=rows,
                    index=index,
                    todays_row_V=_rows_of(index.item_ids_V, splits.items.ids[FIRST_ROW:], NOTHING),
                )

    def rank(self, rows_Q: Longs, k: int) -> Longs:
        """Return item rows ``[Q, K]``, as :meth:`perscen.evaluation.baselines.Ranker.rank`.

        An item that left the catalogue keeps its place in the list, as ``NOTHING``.
        """
        found_QK = np.full((len(rows_Q), k), NOTHING, dtype=np.int64)
        for scenario in np.unique(self._scenario_Q[rows_Q]):
            shelf = self._shelves.get(int(scenario))
            if shelf is None:
                continue
            here = np.flatnonzero(self._scenario_Q[rows_Q] == scenario)
            places = torch.from_numpy(np.searchsorted(shelf.rows, rows_Q[here]))
            positions = shelf.index.search(shelf.vectors[places], k)[1]
            found_QK[here, : positions.shape[1]] = shelf.todays_row_V[positions]
        return found_QK


@dataclass(frozen=True)
class _Shelf:
    """One scenario as the champion serves it; ``vectors`` are those of the queries ``rows``."""

    vectors: Tensor
    rows: Longs
    index: ScenarioIndex
    todays_row_V: Longs


@dataclass(frozen=True)
class _Knowledge:
    """The vocabularies and scalers a model was trained with."""

    vocabularies: dict[str, list[str]]
    scalers: dict[str, tuple[float, float]]

    @classmethod
    def read(cls, directory: Path) -> _Knowledge:
        scalers = json.loads((directory / "scalers.json").read_text(encoding="utf-8"))
        return cls(
            vocabularies=json.loads((directory / "vocabularies.json").read_text(encoding="utf-8")),
            scalers={name: (mean, sd) for name, (mean, sd) in scalers.items()},
        )


def _in_words_of(
    knowledge: _Knowledge, schema: Schema, splits: Splits, slices: Slices
) -> tuple[Splits, Slices]:
    """Return users and histories in another model's rows and scales, and their slices.

    Fields that today's data lacks are missing for everybody; items the model does not know are
    passed over in histories. The item table stays today's.
    """
    today, then = splits.vocabularies, knowledge.vocabularies
    row_of = _translation(today["items"], then["items"]).astype(np.int32)
    past = splits.histories
    items, start, end = _known_only(row_of[past.items], slices.start, slices.end)
    spec, spec_start, spec_end = _known_only(
        row_of[past.spec_items], slices.spec_start, slices.spec_end
    )
    shown, shown_start, shown_end = _known_only(
        row_of[past.shown_items], slices.shown_start, slices.shown_end
    )
    translated = replace(
        splits,
        users=FeatureTable(
            ids=splits.users.ids,
            categorical_RF=_categorical(knowledge, schema, splits),
            dense_RF=_dense(knowledge, schema, splits),
            bags=tuple(_bag(field.name, knowledge, splits) for field in schema.user.bags),
        ),
        histories=replace(past, items=items, spec_items=spec, shown_items=shown),
    )
    return translated, Slices(start, end, spec_start, spec_end, shown_start, shown_end)


def _known_only(items: Ints, start: Longs, end: Longs) -> tuple[Ints, Longs, Longs]:
    known = items != UNKNOWN_ROW
    place = np.concatenate([[0], np.cumsum(known)]).astype(np.int64)
    return items[known], place[start], place[end]


def _categorical(knowledge: _Knowledge, schema: Schema, splits: Splits) -> Ints:
    place_of = {field.name: place for place, field in enumerate(splits.schema.user.categorical)}
    shape = (len(splits.users.ids), len(schema.user.categorical))
    rows_RF = np.full(shape, MISSING_ROW, dtype=np.int32)
    for column, field in enumerate(schema.user.categorical):
        if field.name in place_of:
            translation = _values(field.name, knowledge, splits)
            rows_RF[:, column] = translation[splits.users.categorical_RF[:, place_of[field.name]]]
    return rows_RF


def _dense(knowledge: _Knowledge, schema: Schema, splits: Splits) -> NDArray[np.float32]:
    place_of = {name: place for place, name in enumerate(splits.schema.user.dense)}
    scaled_RF = np.zeros((len(splits.users.ids), len(schema.user.dense)), dtype=np.float32)
    for column, name in enumerate(schema.user.dense):
        if name in place_of:
            scaled_R = np.asarray(splits.users.dense_RF[:, place_of[name]], dtype=np.float64)
            mean, sd = splits.scalers[f"user/{name}"]
            then_mean, then_sd = knowledge.scalers[f"user/{name}"]
            # Exactly 0 is a missing value, in every scale.
            scaled_RF[:, column] = np.where(
                scaled_R == 0, 0, (scaled_R * sd + mean - then_mean) / then_sd
            )
    return scaled_RF


def _bag(name: str, knowledge: _Knowledge, splits: Splits) -> Ragged:
    place_of = {field.name: place for place, field in enumerate(splits.schema.user.bags)}
    if name not in place_of:
        num_rows = len(splits.users.ids)
        return Ragged(np.zeros(num_rows + 1, dtype=np.int64), np.empty(0, dtype=np.int32))
    bag = splits.users.bags[place_of[name]]
    values = _values(name, knowledge, splits)[bag.values]
    return Ragged(np.asarray(bag.offsets), values.astype(np.int32))


def _values(name: str, knowledge: _Knowledge, splits: Splits) -> Longs:
    key = f"user/{name}"
    return _translation(splits.vocabularies[key], knowledge.vocabularies[key])


def _translation(today: Sequence[str], then: Sequence[str]) -> Longs:
    """Return the row in ``then`` of each row in ``today``, reserved rows included."""
    known = _rows_of(np.array(today, dtype=np.str_), np.array(then, dtype=np.str_), UNKNOWN_ROW)
    return np.concatenate([np.array(_RESERVED, dtype=np.int64), known])


def _rows_of(values: NDArray[np.str_], known: NDArray[np.str_], otherwise: int) -> Longs:
    """Return the table row of each value; ``otherwise`` for those that are not known."""
    row_of = {value: row for row, value in enumerate(known.tolist(), start=FIRST_ROW)}
    return np.array([row_of.get(value, otherwise) for value in values.tolist()], dtype=np.int64)


def _queries(queries: Queries, rows: Longs, *, scenario: int) -> Queries:
    """Return the queries at ``rows`` as queries of ``scenario``; relevant items stay behind."""
    return Queries(
        user=queries.user[rows],
        scenario=np.full(len(rows), scenario, dtype=np.int32),
        user_id=queries.user_id[rows],
        relevant_offsets=np.zeros(len(rows) + 1, dtype=np.int64),
        relevant=np.empty(0, dtype=np.int32),
    )


def _latest(slices: Slices, rows: Longs, length: int) -> Slices:
    """Return the slices at ``rows``, cut to the last ``length`` events that the model reads."""
    ends = (slices.end[rows], slices.spec_end[rows], slices.shown_end[rows])
    starts = (slices.start[rows], slices.spec_start[rows], slices.shown_start[rows])
    (start, spec, shown) = (
        np.maximum(start, end - length) for start, end in zip(starts, ends, strict=True)
    )
    return Slices(start, ends[0], spec, ends[1], shown, ends[2])
