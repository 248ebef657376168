"""Feature tables: typed columns become vocabulary rows and scaled numbers.

Letters: R table rows, F fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from perscen.data.fields import TowerPlan
from perscen.data.splits import FeatureTable, Ints, Ragged
from perscen.data.vocabulary import rows_of, text_of, vocabulary_of
from perscen.errors import ArtifactError
from perscen.schema import FIRST_ROW, MISSING_ROW, UNKNOWN_ROW, Field, TowerSchema

Tower = Literal["user", "item"]


def check_features(table: pa.Table, plan: TowerPlan, *, tower: Tower) -> None:
    """Check that a feature table has the planned columns and no id twice.

    Raises:
        ArtifactError: It does not.
    """
    id_column = f"{tower}_id"
    planned = [id_column, *plan.categorical, *plan.dense, *plan.bags]
    if missing := sorted(set(planned) - set(table.column_names)):
        raise ArtifactError(
            f"the {tower} table lacks the columns {', '.join(missing)} that fields.json names",
            hint="run `validate` again",
        )
    repeated = len(table) - pc.count_distinct(table[id_column], mode="all").as_py()
    if repeated:
        raise ArtifactError(
            f"{repeated:,} of {len(table):,} rows of the {tower} table repeat an {id_column}",
            hint="run `validate` again",
        )


def with_ids(table: pa.Table, ids: Sequence[str], *, tower: Tower) -> pa.Table:
    """Return the table with a row for each further id, whose features are all missing."""
    id_column = f"{tower}_id"
    index = table.column_names.index(id_column)
    table = table.set_column(index, id_column, table[id_column].cast(pa.string()))
    extra = pa.table({id_column: pa.array(ids, pa.string())})
    return pa.concat_tables([table, extra], promote_options="default")


@dataclass(frozen=True)
class EncodedTower:
    """A feature table in rows and scaled numbers, and what it was encoded by."""

    table: FeatureTable
    schema: TowerSchema
    vocabularies: dict[str, list[str]]
    scalers: dict[str, tuple[float, float]]


def fit_tower(
    table: pa.Table, plan: TowerPlan, *, tower: Tower, trained: NDArray[np.bool_]
) -> EncodedTower:
    """Return the table encoded by vocabularies and scalers of its own.

    Args:
        table: The feature table.
        plan: Its fields.
        tower: Which tower they feed.
        trained: Rows whose ids get a vocabulary row and whose numbers the scalers are made from.
    """
    ids = text_of(table[f"{tower}_id"]).filter(pa.array(trained)).to_pylist()
    vocabularies = build_vocabularies(table, plan, tower=tower, ids=ids)
    scalers = build_scalers(table, plan, tower=tower, rows=trained)
    return EncodedTower(
        table=encode_features(table, plan, tower=tower, vocabularies=vocabularies, scalers=scalers),
        schema=tower_schema(plan, tower=tower, vocabularies=vocabularies),
        vocabularies=vocabularies,
        scalers=scalers,
    )


def build_vocabularies(
    table: pa.Table, plan: TowerPlan, *, tower: Tower, ids: Sequence[str]
) -> dict[str, list[str]]:
    """Return the vocabulary of each categorical and multi-valued field, by ``<tower>/<field>``.

    Args:
        table: The feature table.
        plan: Its fields.
        tower: Which tower they feed.
        ids: The vocabulary of the id field: the ids that may have a row of their own.
    """
    vocabularies = {
        f"{tower}/{name}": vocabulary_of(text_of(table[name])) for name in plan.categorical
    }
    vocabularies |= {
        f"{tower}/{name}": vocabulary_of(text_of(pc.list_flatten(table[name])))
        for name in plan.bags
    }
    id_field = f"{tower}/{tower}_id"
    return vocabularies | ({id_field: list(ids)} if id_field in vocabularies else {})


def build_scalers(
    table: pa.Table, plan: TowerPlan, *, tower: Tower, rows: NDArray[np.bool_]
) -> dict[str, tuple[float, float]]:
    """Return ``(mean, sd)`` of ``log(1 + max(x, 0))`` of each dense field, where it is known.

    A field without a known value, or with a single one, is only centred: its sd is given as 1.
    """
    scalers = {}
    for name in plan.dense:
        values = _log1p(table[name])[rows]
        values = values[~np.isnan(values)]
        mean, sd = (float(values.mean()), float(values.std())) if len(values) else (0.0, 1.0)
        scalers[f"{tower}/{name}"] = (mean, sd or 1.0)
    return scalers


def encode_features(
    table: pa.Table,
    plan: TowerPlan,
    *,
    tower: Tower,
    vocabularies: Mapping[str, list[str]],
    scalers: Mapping[str, tuple[float, float]],
) -> FeatureTable:
    """Return a feature table in rows and scaled numbers, below the unknown and the missing row.

    A value that no vocabulary has becomes row 0, a missing one row 1 (in a multi-valued field: a
    list of just the missing row), a missing number 0 after scaling.
    """
    num_rows = len(table) + FIRST_ROW
    categorical_RF = np.empty((num_rows, len(plan.categorical)), dtype=np.int32)
    categorical_RF[UNKNOWN_ROW], categorical_RF[MISSING_ROW] = UNKNOWN_ROW, MISSING_ROW
    for f, name in enumerate(plan.categorical):
        values = text_of(table[name])
        categorical_RF[FIRST_ROW:, f] = rows_of(values, vocabularies[f"{tower}/{name}"])
    dense_RF = np.zeros((num_rows, len(plan.dense)), dtype=np.float32)
    for f, name in enumerate(plan.dense):
        mean, sd = scalers[f"{tower}/{name}"]
        dense_RF[FIRST_ROW:, f] = np.nan_to_num((_log1p(table[name]) - mean) / sd, nan=0.0)
    ids = text_of(table[f"{tower}_id"]).to_pylist()
    return FeatureTable(
        ids=np.array([""] * FIRST_ROW + ids, dtype=np.str_),
        categorical_RF=categorical_RF,
        dense_RF=dense_RF,
        bags=tuple(_bag(table[name], vocabularies[f"{tower}/{name}"]) for name in plan.bags),
    )


def tower_schema(
    plan: TowerPlan, *, tower: Tower, vocabularies: Mapping[str, list[str]]
) -> TowerSchema:
    """Return a tower's fields with their sizes; the user tower ends in the pooled clicks."""

    def sized(name: str) -> Field:
        return Field(name=name, num_rows=len(vocabularies[f"{tower}/{name}"]) + FIRST_ROW)

    return TowerSchema(
        categorical=tuple(map(sized, plan.categorical)),
        dense=plan.dense,
        bags=tuple(map(sized, plan.bags)),
        sequence=tower == "user",
    )


def _log1p(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return ``log(1 + max(x, 0))``; NaN where missing."""
    values = column.cast(pa.float64()).to_numpy()
    logs: NDArray[np.float64] = np.log1p(np.maximum(values, 0.0))
    return logs


def _bag(column: pa.ChunkedArray, vocabulary: Sequence[str]) -> Ragged:
    lists = column.combine_chunks()
    missing_R = lists.is_null().to_numpy(zero_copy_only=False)
    lengths = pc.fill_null(pc.list_value_length(lists), 1).to_numpy()
    # The unknown row is an empty list; the missing row, like a missing list, is [MISSING_ROW].
    lengths_R = np.concatenate([[0, 1], lengths])
    offsets = np.zeros(len(lengths_R) + 1, dtype=np.int64)
    np.cumsum(lengths_R, out=offsets[1:])
    values: Ints = np.full(int(offsets[-1]), MISSING_ROW, dtype=np.int32)
    known = np.repeat(np.concatenate([[False, False], ~missing_R]), lengths_R)
    values[known] = rows_of(text_of(pc.list_flatten(column)), vocabulary)
    return Ragged(offsets=offsets, values=values)
