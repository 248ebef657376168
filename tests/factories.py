"""Small built data for tests: splits made directly, by plain loops that are easy to believe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
from perscen.schema import FIRST_ROW, Field, Schema, TowerSchema


@dataclass(frozen=True)
class Event:
    """One impression; rows are table rows (from 2), time in milliseconds."""

    user: int
    item: int
    scenario: int
    time_ms: int
    clicked: bool = True


def make_splits(
    events: Sequence[Event],
    *,
    valid_from_ms: int,
    test_from_ms: int,
    num_users: int,
    num_items: int,
    num_scenarios: int = 2,
    max_seq_len: int = 50,
    seed: int = 0,
) -> Splits:
    """Return splits of the events: training, then ``valid_from_ms`` on, then ``test_from_ms`` on.

    Users and items get one random categorical field besides their id, one dense field, and items
    one multi-valued field.
    """
    rng = np.random.default_rng(seed)
    users = _table("u", num_users, rng, bags=0)
    items = _table("v", num_items, rng, bags=1)
    order = sorted(events, key=lambda e: (e.user, e.time_ms))
    clicks = [e for e in order if e.clicked]
    spec = sorted(clicks, key=lambda e: (e.user, e.scenario, e.time_ms))
    shown = [e for e in order if not e.clicked]
    num_rows = num_users + FIRST_ROW
    histories = Histories(
        items=_ints(e.item for e in clicks),
        times_ms=_longs(e.time_ms for e in clicks),
        spec_items=_ints(e.item for e in spec),
        spec_times_ms=_longs(e.time_ms for e in spec),
        shown_items=_ints(e.item for e in shown),
        shown_times_ms=_longs(e.time_ms for e in shown),
        user_offsets=_offsets([e.user for e in clicks], num_rows),
        spec_offsets=_offsets(
            [e.user * num_scenarios + e.scenario for e in spec], num_rows * num_scenarios
        ),
        shown_offsets=_offsets([e.user for e in shown], num_rows),
    )

    def slices(queries: Sequence[tuple[int, int, int]]) -> Slices:
        """Bounds of the events strictly before each query's (user, scenario, time)."""
        columns = []
        for user, scenario, time in queries:
            row = []
            for rows, same in ((clicks, False), (spec, True), (shown, False)):
                mine = [
                    i
                    for i, e in enumerate(rows)
                    if e.user == user and e.time_ms < time and (not same or e.scenario == scenario)
                ][-max_seq_len:]
                row += [mine[0], mine[-1] + 1] if mine else [0, 0]
            columns.append(row)
        return Slices(*np.array(columns, dtype=np.int64).reshape(-1, 6).T.copy())

    train = sorted(
        (e for e in clicks if e.time_ms < valid_from_ms), key=lambda e: (e.time_ms, e.user, e.item)
    )
    seen = sorted(
        (e for e in order if e.time_ms < valid_from_ms), key=lambda e: (e.user, e.time_ms)
    )
    valid = _queries([e for e in clicks if valid_from_ms <= e.time_ms < test_from_ms])
    test = _queries([e for e in clicks if e.time_ms >= test_from_ms])
    ever = [(u, s, 2**62) for u in range(num_rows) for s in range(num_scenarios)]
    return Splits(
        schema=Schema(
            user=TowerSchema(
                categorical=(
                    Field(name="user_id", num_rows=num_rows),
                    Field(name="group", num_rows=6),
                ),
                dense=("dense",),
                bags=(),
                sequence=True,
            ),
            item=TowerSchema(
                categorical=(
                    Field(name="item_id", num_rows=num_items + FIRST_ROW),
                    Field(name="group", num_rows=6),
                ),
                dense=("dense",),
                bags=(Field(name="tag", num_rows=7),),
                sequence=False,
            ),
            scenarios=tuple(f"s{s}" for s in range(num_scenarios)),
            num_item_rows=num_items + FIRST_ROW,
            max_seq_len=max_seq_len,
        ),
        users=users,
        items=items,
        histories=histories,
        train=Rows(
            _ints(e.user for e in train),
            _ints(e.item for e in train),
            _ints(e.scenario for e in train),
            _longs(e.time_ms for e in train),
        ),
        train_slices=slices([(e.user, e.scenario, e.time_ms) for e in train]),
        valid=valid,
        valid_slices=slices(
            [(u, s, valid_from_ms) for u, s in zip(valid.user, valid.scenario, strict=True)]
        ),
        test=test,
        test_slices=slices(
            [(u, s, test_from_ms) for u, s in zip(test.user, test.scenario, strict=True)]
        ),
        served=slices(ever),
        impressions=Impressions(
            _ints(e.user for e in seen),
            _ints(e.item for e in seen),
            _ints(e.scenario for e in seen),
            np.array([e.clicked for e in seen], dtype=np.bool_),
            _longs(e.time_ms for e in seen),
            _offsets([e.user for e in seen], num_rows),
        ),
        vocabularies={
            "users": list(users.ids[FIRST_ROW:]),
            "items": list(items.ids[FIRST_ROW:]),
            "user/user_id": list(users.ids[FIRST_ROW:]),
            "user/group": list("abcd"),
            "item/item_id": list(items.ids[FIRST_ROW:]),
            "item/group": list("abcd"),
            "item/tag": list("abcde"),
        },
        scalers={"user/dense": (0.0, 1.0), "item/dense": (0.0, 1.0)},
    )


def random_events(
    *, num_users: int, num_items: int, num_scenarios: int, per_user: int, days: int, seed: int = 0
) -> list[Event]:
    """Return impressions at random, about half of them clicks; a day has 86,400,000 ms."""
    rng = np.random.default_rng(seed)
    return [
        Event(
            user=u + FIRST_ROW,
            item=int(rng.integers(num_items)) + FIRST_ROW,
            scenario=int(rng.integers(num_scenarios)),
            time_ms=int(rng.integers(days * 86_400_000)),
            clicked=bool(rng.random() < 0.5),
        )
        for u in range(num_users)
        for _ in range(per_user)
    ]


def random_splits(
    *,
    num_users: int = 20,
    num_items: int = 30,
    num_scenarios: int = 2,
    per_user: int = 24,
    max_seq_len: int = 5,
    seed: int = 0,
) -> Splits:
    """Return splits of random events: 6 days for training, 2 for validation, 2 for the test."""
    events = random_events(
        num_users=num_users,
        num_items=num_items,
        num_scenarios=num_scenarios,
        per_user=per_user,
        days=10,
        seed=seed,
    )
    return make_splits(
        events,
        valid_from_ms=6 * 86_400_000,
        test_from_ms=8 * 86_400_000,
        num_users=num_users,
        num_items=num_items,
        num_scenarios=num_scenarios,
        max_seq_len=max_seq_len,
        seed=seed,
    )


def checkerboard(*, num_users: int = 24, num_items: int = 24, seed: int = 0) -> Splits:
    """Return the scenario checkerboard: who likes what depends on the scenario, and nothing else.

    In scenario 0 users of even row like items of even row and odd users odd ones; in scenario 1 it
    is the other way round. Each user has clicked all but one of the liked items of each scenario;
    the withheld one is the validation and the test item. A scenario-blind model cannot tell which.
    """
    events, rng = [], np.random.default_rng(seed)
    for user in range(FIRST_ROW, num_users + FIRST_ROW):
        for scenario in (0, 1):
            liked = [
                i for i in range(FIRST_ROW, num_items + FIRST_ROW) if (i + user + scenario) % 2 == 0
            ]
            withheld = liked[(user // 2) % len(liked)]
            events += [
                Event(user, item, scenario, int(rng.integers(1_000)))
                for item in liked
                if item != withheld
            ]
            events += [
                Event(user, withheld, scenario, 1_000),
                Event(user, withheld, scenario, 2_000),
            ]
    return make_splits(
        events,
        valid_from_ms=1_000,
        test_from_ms=2_000,
        num_users=num_users,
        num_items=num_items,
        seed=seed,
    )


def _table(prefix: str, num: int, rng: np.random.Generator, *, bags: int) -> FeatureTable:
    rows = num + FIRST_ROW
    categorical = np.stack([np.arange(rows), rng.integers(1, 6, rows)], axis=1).astype(np.int32)
    categorical[0] = 0
    dense = rng.standard_normal((rows, 1)).astype(np.float32)
    dense[:FIRST_ROW] = 0
    return FeatureTable(
        ids=np.array(["", "", *(f"{prefix}{n}" for n in range(num))]),
        categorical_RF=categorical,
        dense_RF=dense,
        bags=tuple(_bag(rows, rng) for _ in range(bags)),
    )


def _bag(rows: int, rng: np.random.Generator) -> Ragged:
    lengths = rng.integers(0, 4, rows)
    lengths[:FIRST_ROW] = 0
    values = rng.integers(FIRST_ROW, 7, int(lengths.sum())).astype(np.int32)
    return Ragged(offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), values=values)


def _queries(clicks: Sequence[Event]) -> Queries:
    relevant: dict[tuple[int, int], set[int]] = {}
    for e in clicks:
        relevant.setdefault((e.user, e.scenario), set()).add(e.item)
    keys = sorted(relevant)
    return Queries(
        user=_ints(u for u, _ in keys),
        scenario=_ints(s for _, s in keys),
        user_id=np.array([f"u{u - FIRST_ROW}" for u, _ in keys], dtype=np.str_),
        relevant_offsets=np.concatenate([[0], np.cumsum([len(relevant[k]) for k in keys])]).astype(
            np.int64
        ),
        relevant=_ints(i for k in keys for i in sorted(relevant[k])),
    )


def _offsets(rows: list[int], num_rows: int) -> np.ndarray:
    return np.concatenate(
        [[0], np.cumsum(np.bincount(np.array(rows, dtype=np.int64), minlength=num_rows))]
    ).astype(np.int64)


def _ints(values: object) -> np.ndarray:
    return np.array(list(values), dtype=np.int32)  # type: ignore[call-overload]


def _longs(values: object) -> np.ndarray:
    return np.array(list(values), dtype=np.int64)  # type: ignore[call-overload]
