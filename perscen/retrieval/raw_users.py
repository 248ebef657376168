"""Queries from raw values: for callers that keep their users' features and histories themselves."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from perscen.data.batches import Packed, UserBatch
from perscen.data.features import encode_features
from perscen.data.fields import TowerPlan
from perscen.errors import ConfigError
from perscen.schema import FIRST_ROW, Schema


@dataclass(frozen=True)
class Click:
    """One click of a history; an item that the catalogue does not have is passed over."""

    item_id: str
    scenario: str


class RawUsers:
    """Turns raw values into queries, by the vocabularies and scalers of one model.

    Args:
        schema: The model's schema.
        directory: The model's directory.
    """

    def __init__(self, schema: Schema, directory: Path) -> None:
        self._schema = schema
        read = (directory / "vocabularies.json").read_text(encoding="utf-8")
        self._vocabularies: dict[str, list[str]] = json.loads(read)
        read = (directory / "scalers.json").read_text(encoding="utf-8")
        self._scalers: dict[str, tuple[float, float]] = json.loads(read)

    @cached_property
    def _item_rows(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self._vocabularies["items"], start=FIRST_ROW)}

    def query(
        self,
        features: Mapping[str, object],
        clicks: Sequence[Click],
        scenario: str,
        shown: Sequence[str],
    ) -> UserBatch:
        """Return one user's query in a scenario; histories are oldest first.

        Raises:
            ConfigError: A field is not one of the user tower's, or a value is of the wrong type.
        """
        tower = self._schema.user
        plan = TowerPlan(
            categorical=tuple(field.name for field in tower.categorical),
            dense=tower.dense,
            bags=tuple(field.name for field in tower.bags),
        )
        table = encode_features(
            _one_row(features, plan),
            plan,
            tower="user",
            vocabularies=self._vocabularies,
            scalers=self._scalers,
        )
        own = {
            name: self._history(click.item_id for click in clicks if click.scenario == name)
            for name in self._schema.scenarios
        }
        spec_history = own[scenario]
        if self._schema.spec_seq_source == "filter_truncated":
            known = [click for click in clicks if click.item_id in self._item_rows]
            latest = known[-self._schema.max_seq_len :]
            spec_history = self._history(c.item_id for c in latest if c.scenario == scenario)
        return UserBatch(
            categorical_BF=torch.from_numpy(table.categorical_RF[FIRST_ROW:]).long(),
            dense_BF=torch.from_numpy(table.dense_RF[FIRST_ROW:]),
            bags=tuple(_single(bag.values[bag.offsets[FIRST_ROW] :]) for bag in table.bags),
            history=self._history(click.item_id for click in clicks),
            spec_history=spec_history,
            shown=self._history(shown),
            scenario_B=torch.tensor([self._schema.scenario_index(scenario)]),
            by_scenario=lambda: _joined(list(own.values())),
        )

    def _history(self, items: Iterable[str]) -> Packed:
        rows = [self._item_rows[item] for item in items if item in self._item_rows]
        return _single(rows[-self._schema.max_seq_len :])


def _one_row(features: Mapping[str, object], plan: TowerPlan) -> pa.Table:
    """Return raw values as a feature table of one row, in the types that fields have."""
    known = [*plan.categorical, *plan.dense, *plan.bags]
    if unknown := sorted(set(features) - set(known)):
        near = difflib.get_close_matches(unknown[0], known, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"its fields are {', '.join(known)}"
        raise ConfigError(f"{unknown[0]!r} is no field of the user tower", hint=advice)
    types = dict.fromkeys(plan.categorical, pa.string())
    types |= dict.fromkeys(plan.dense, pa.float64())
    types |= dict.fromkeys(plan.bags, pa.list_(pa.string()))
    columns = {"user_id": pa.array([None], pa.string())}
    for name, kind in types.items():
        value = features.get(name)
        try:
            columns[name] = pa.array([_as_text(value) if kind != pa.float64() else value], kind)
        except (pa.ArrowException, TypeError) as exc:
            raise ConfigError(
                f"the user's {name} is {value!r}, which is no {kind}", hint=f"give {name} as {kind}"
            ) from exc
    return pa.table(columns)


def _as_text(value: object) -> object:
    """Return a raw value in the text form of vocabularies; 9 and 9.0 are both "9"."""
    if isinstance(value, list | tuple):
        return [_as_text(part) for part in value]
    if value is None or isinstance(value, str):
        return value
    return pa.scalar(value).cast(pa.string()).as_py()


def _joined(parts: Sequence[Packed]) -> Packed:
    """Return histories of one row each as the rows of one."""
    lengths = [0, *(len(part.values_V) for part in parts)]
    return Packed(
        values_V=torch.cat([part.values_V for part in parts]),
        offsets_B1=torch.tensor(lengths).cumsum(0),
    )


def _single(rows: Sequence[int] | NDArray[np.int32]) -> Packed:
    values = torch.tensor(np.array(rows, dtype=np.int64))
    return Packed(values_V=values, offsets_B1=torch.tensor([0, len(values)]))
