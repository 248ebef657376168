"""The splits artifact in memory: flat arrays, read by memory map, never one object per row.

Letters: N clicks, E training rows, Q evaluation queries, R table rows, F fields.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from perscen.schema import Schema

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]


class Columns:
    """A group of equally named ``.npy`` files; the fields of the dataclass are the columns."""

    def save(self, directory: Path) -> None:
        """Write one ``.npy`` file per column."""
        directory.mkdir(parents=True, exist_ok=True)
        for field in fields(self):  # type: ignore[arg-type]
            np.save(directory / f"{field.name}.npy", getattr(self, field.name), allow_pickle=False)

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Return the columns, memory-mapped read-only."""
        names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        return cls(
            **{n: np.load(directory / f"{n}.npy", mmap_mode="r", allow_pickle=False) for n in names}
        )


@dataclass(frozen=True)
class Ragged(Columns):
    """Lists of different lengths: row ``r`` is ``values[offsets[r]:offsets[r + 1]]``."""

    offsets: Longs
    values: Ints


@dataclass(frozen=True)
class Histories(Columns):
    """Every event of a kept scenario in the three windows that a history can be cut from.

    ``items`` holds clicks sorted by (user, time): a slice is a multi-scenario history.
    ``spec_items`` holds the same clicks sorted by (user, scenario, time): a slice is a
    scenario-specific one. ``shown_items`` holds impressions without a click, sorted by (user,
    time). ``*_times_ms`` go with them. ``user_offsets[R + 1]`` bounds each user row in the first
    two, ``shown_offsets[R + 1]`` in the third, ``spec_offsets[R * S + 1]`` bounds each (user row,
    scenario) in the second.
    """

    items: Ints
    times_ms: Longs
    spec_items: Ints
    spec_times_ms: Longs
    shown_items: Ints
    shown_times_ms: Longs
    user_offsets: Longs
    spec_offsets: Longs
    shown_offsets: Longs


@dataclass(frozen=True)
class Slices(Columns):
    """Bounds ``[start, end)`` of each row's histories in :class:`Histories`, at most T long."""

    start: Longs
    end: Longs
    spec_start: Longs
    spec_end: Longs
    shown_start: Longs
    shown_end: Longs


@dataclass(frozen=True)
class Rows(Columns):
    """Training rows (E), one per click, sorted by (time, user, item)."""

    user: Ints
    item: Ints
    scenario: Ints
    time_ms: Longs


@dataclass(frozen=True)
class Queries(Columns):
    """Evaluation queries (Q), one per (user, scenario) with at least one click in the window.

    ``relevant_offsets[Q + 1]`` bounds each query's set of clicked item rows in ``relevant``,
    sorted and without repeats. ``user_id`` holds raw ids, since several unknown users share row 0.
    """

    user: Ints
    scenario: Ints
    user_id: NDArray[np.str_]
    relevant_offsets: Longs
    relevant: Ints


@dataclass(frozen=True)
class Impressions(Columns):
    """Impressions of the training window in kept scenarios, sorted by (user, time)."""

    user: Ints
    item: Ints
    scenario: Ints
    clicked: NDArray[np.bool_]
    time_ms: Longs
    user_offsets: Longs


@dataclass(frozen=True)
class FeatureTable:
    """Features of every user or item, one row each; row 0 is the unknown, row 1 the missing.

    Attributes:
        ids: Raw ids ``[R]``; empty at rows 0 and 1.
        categorical_RF: Vocabulary rows of the categorical fields, int32.
        dense_RF: Scaled dense fields, float32; 0 where missing.
        bags: Vocabulary rows of each multi-valued field.
    """

    ids: NDArray[np.str_]
    categorical_RF: Ints
    dense_RF: NDArray[np.float32]
    bags: tuple[Ragged, ...]

    def save(self, directory: Path) -> None:
        """Write the table as ``.npy`` files, one folder per multi-valued field."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in ("ids", "categorical_RF", "dense_RF"):
            np.save(directory / f"{name}.npy", getattr(self, name), allow_pickle=False)
        for number, bag in enumerate(self.bags):
            bag.save(directory / f"bag_{number}")

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Return the table, memory-mapped read-only."""
        arrays = {
            n: np.load(directory / f"{n}.npy", mmap_mode="r")
            for n in ("ids", "categorical_RF", "dense_RF")
        }
        bags = (Ragged.open(path) for path in sorted(directory.glob("bag_*"), key=_number))
        return cls(bags=tuple(bags), **arrays)


@dataclass(frozen=True)
class Splits:
    """Everything training, indexing and evaluation need of the data.

    Attributes:
        train: Rows of kept users in the training window; ``train_slices`` their histories.
        valid, test: Queries; their slices are frozen at the window's start.
        histories: The flat arrays all slices point into.
        served: Slices ``[R * S]`` per (user row, scenario) up to and including the logical date:
            what a published bundle serves. Row ``u * S + s``.
        vocabularies: Values per field by tower ("user/<field>", "item/<field>"); position ``i`` is
            row ``i + 2``. The key "items" lists the whole catalogue, in the item table's order.
        scalers: ``(mean, sd)`` of ``log(1 + max(x, 0))`` per dense field, same keys.
    """

    schema: Schema
    users: FeatureTable
    items: FeatureTable
    histories: Histories
    train: Rows
    train_slices: Slices
    valid: Queries
    valid_slices: Slices
    test: Queries
    test_slices: Slices
    served: Slices
    impressions: Impressions
    vocabularies: dict[str, list[str]]
    scalers: dict[str, tuple[float, float]]

    def save(self, directory: Path) -> None:
        """Write everything below ``directory``."""
        for name, part in self._parts():
            part.save(directory / name)
        _write_json(directory / "schema.json", self.schema.model_dump(mode="json"))
        _write_json(directory / "vocabularies.json", self.vocabularies)
        _write_json(directory / "scalers.json", self.scalers)

    @classmethod
    def open(cls, directory: Path, *, hide_test: bool = False) -> Self:
        """Return the splits in ``directory``, arrays memory-mapped read-only.

        With ``hide_test`` the test window's queries and the histories that a bundle serves, which
        reach into it, are never opened but left empty: for whoever chooses settings.
        """
        scalers = json.loads((directory / "scalers.json").read_text(encoding="utf-8"))
        return cls(
            schema=Schema.model_validate_json(
                (directory / "schema.json").read_text(encoding="utf-8")
            ),
            users=FeatureTable.open(directory / "users"),
            items=FeatureTable.open(directory / "items"),
            histories=Histories.open(directory / "histories"),
            train=Rows.open(directory / "train"),
            train_slices=Slices.open(directory / "train_slices"),
            valid=Queries.open(directory / "valid"),
            valid_slices=Slices.open(directory / "valid_slices"),
            test=_NO_QUERIES if hide_test else Queries.open(directory / "test"),
            test_slices=_NO_SLICES if hide_test else Slices.open(directory / "test_slices"),
            served=_NO_SLICES if hide_test else Slices.open(directory / "served"),
            impressions=Impressions.open(directory / "impressions"),
            vocabularies=json.loads((directory / "vocabularies.json").read_text(encoding="utf-8")),
            scalers={name: (mean, sd) for name, (mean, sd) in scalers.items()},
        )

    def _parts(self) -> Iterator[tuple[str, Columns | FeatureTable]]:
        for field in fields(self):
            part = getattr(self, field.name)
            if isinstance(part, Columns | FeatureTable):
                yield field.name, part


_INTS: Final[Ints] = np.zeros(0, dtype=np.int32)
_LONGS: Final[Longs] = np.zeros(0, dtype=np.int64)
_NO_QUERIES: Final = Queries(
    user=_INTS,
    scenario=_INTS,
    user_id=np.zeros(0, dtype=np.str_),
    relevant_offsets=np.zeros(1, dtype=np.int64),
    relevant=_INTS,
)
_NO_SLICES: Final = Slices(_LONGS, _LONGS, _LONGS, _LONGS, _LONGS, _LONGS)


def _number(bag: Path) -> int:
    return int(bag.name.removeprefix("bag_"))


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
