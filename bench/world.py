"""Splits of KuaiRand-Pure's size and fields with random content, for benchmarks that read data."""

from __future__ import annotations

import numpy as np

from bench.step import HISTORY, NUM_ITEMS, NUM_USERS, SCENARIO_SHARES, kuairand_schema
from perscen.data.splits import (
    FeatureTable,
    Histories,
    Impressions,
    Queries,
    Ragged,
    Rows,
    Slices,
    Splits,
)
from perscen.schema import FIRST_ROW, TowerSchema

MOST_TAGS = 3
_FLAT = 500_000

Columns = dict[str, np.ndarray]


def kuairand_world(*, num_rows: int, num_items: int = NUM_ITEMS, seed: int = 0) -> Splits:
    """Return splits with ``num_rows`` clicks to train on and as many impressions without one.

    Histories of the clicks are 0 to 50 long, evenly.
    """
    rng = np.random.default_rng(seed)
    schema = kuairand_schema(num_items=num_items)
    users = _table(schema.user, NUM_USERS + FIRST_ROW, rng)
    items = _table(schema.item, num_items + FIRST_ROW, rng)

    def ints(high: int, size: int) -> np.ndarray:
        return rng.integers(FIRST_ROW, high, size, dtype=np.int32)

    scenario = rng.choice(len(SCENARIO_SHARES), num_rows, p=SCENARIO_SHARES).astype(np.int32)
    train = Rows(
        user=ints(len(users.ids), num_rows),
        item=ints(len(items.ids), num_rows),
        scenario=scenario,
        time_ms=np.arange(num_rows, dtype=np.int64),
    )
    shown_to = np.sort(ints(len(users.ids), num_rows))
    nothing, no_ints = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int32)
    times = np.zeros(_FLAT, dtype=np.int64)
    no_queries = Queries(no_ints, no_ints, np.zeros(0, dtype="<U1"), np.zeros(1, np.int64), no_ints)
    return Splits(
        schema=schema,
        users=users,
        items=items,
        histories=Histories(
            items=ints(len(items.ids), _FLAT),
            times_ms=times,
            spec_items=ints(len(items.ids), _FLAT),
            spec_times_ms=times,
            shown_items=no_ints,
            shown_times_ms=nothing,
            user_offsets=_even(_FLAT, len(users.ids)),
            spec_offsets=_even(_FLAT, len(users.ids) * len(SCENARIO_SHARES)),
            shown_offsets=_even(0, len(users.ids)),
        ),
        train=train,
        train_slices=_slices(num_rows, rng),
        valid=no_queries,
        valid_slices=_slices(0, rng),
        test=no_queries,
        test_slices=_slices(0, rng),
        served=_slices(0, rng),
        impressions=Impressions(
            user=shown_to,
            item=ints(len(items.ids), num_rows),
            scenario=rng.choice(len(SCENARIO_SHARES), num_rows, p=SCENARIO_SHARES).astype(np.int32),
            clicked=np.zeros(num_rows, dtype=np.bool_),
            time_ms=np.zeros(num_rows, dtype=np.int64),
            user_offsets=np.searchsorted(shown_to, np.arange(len(users.ids) + 1)),
        ),
        vocabularies={},
        scalers={},
    )


def _table(tower: TowerSchema, rows: int, rng: np.random.Generator) -> FeatureTable:
    columns = [rng.integers(1, field.num_rows, rows) for field in tower.categorical]
    columns[0] = np.arange(rows)
    bags = []
    for field in tower.bags:
        offsets = np.concatenate([[0], np.cumsum(rng.integers(0, MOST_TAGS + 1, rows))])
        values = rng.integers(FIRST_ROW, field.num_rows, offsets[-1], dtype=np.int32)
        bags.append(Ragged(offsets, values))
    return FeatureTable(
        ids=np.arange(rows).astype(np.str_),
        categorical_RF=np.stack(columns, axis=1).astype(np.int32),
        dense_RF=rng.standard_normal((rows, len(tower.dense)), dtype=np.float32),
        bags=tuple(bags),
    )


def _even(num_events: int, num_groups: int) -> np.ndarray:
    return np.linspace(0, num_events, num_groups + 1).astype(np.int64)


def _slices(num_rows: int, rng: np.random.Generator) -> Slices:
    start = rng.integers(0, _FLAT - HISTORY, (2, num_rows))
    end = start + rng.integers(0, HISTORY + 1, (2, num_rows))
    none = np.zeros(num_rows, dtype=np.int64)
    return Slices(start[0], end[0], start[1], end[1], none, none)


def pair_columns(splits: Splits, rows_B: np.ndarray, items_BC: np.ndarray) -> Columns:
    """Return one row per (training row, candidate): every field by name, lists padded with 0.

    The first candidate is the clicked one, as ``label`` says.
    """
    train, slices, schema = splits.train, splits.train_slices, splits.schema
    row_P = np.repeat(rows_B, items_BC.shape[1])
    item_P = items_BC.reshape(-1)
    columns = {
        **_fields("user", schema.user, splits.users, train.user[row_P]),
        **_fields("item", schema.item, splits.items, item_P),
        "scenario": train.scenario[row_P].astype(np.int64),
        "history": _padded(splits.histories.items, slices.start, slices.end, row_P),
        "spec_history": _padded(
            splits.histories.spec_items, slices.spec_start, slices.spec_end, row_P
        ),
    }
    label_BC = np.zeros(items_BC.shape, dtype=np.int64)
    label_BC[:, 0] = 1
    return columns | {"label": label_BC.reshape(-1)}


def _fields(tower: str, schema: TowerSchema, table: FeatureTable, rows: np.ndarray) -> Columns:
    columns = {
        f"{tower}/{field.name}": table.categorical_RF[rows, place].astype(np.int64)
        for place, field in enumerate(schema.categorical)
    }
    for place, name in enumerate(schema.dense):
        columns[f"{tower}/{name}"] = table.dense_RF[rows, place]
    for field, bag in zip(schema.bags, table.bags, strict=True):
        start, end = bag.offsets[:-1], bag.offsets[1:]
        columns[f"{tower}/{field.name}"] = _padded(bag.values, start, end, rows, MOST_TAGS)
    return columns


def _padded(
    flat: np.ndarray, start: np.ndarray, end: np.ndarray, rows: np.ndarray, width: int = HISTORY
) -> np.ndarray:
    place = start[rows][:, None] + np.arange(width)
    real = place < end[rows][:, None]
    return np.where(real, flat[np.minimum(place, len(flat) - 1)], 0).astype(np.int64)
