"""Raw text into a frame that rules can look at: each text beside its parsed value.

A log repeats itself, so every column is a pandas categorical and each distinct text is parsed once.
What cannot be parsed becomes a missing value; whether that is allowed is for the rules to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pandas.api.types import union_categoricals

from data_contracts.compile import arrow_schema, distinct_texts, matching
from data_contracts.contract import (
    DATE_FORMATS,
    INTEGER_PATTERN,
    NUMBER_PATTERN,
    Column,
    TableContract,
    load_contract,
    whole,
)
from perscen.errors import ConfigError

Numbers = NDArray[np.float64]

_MS_PER_HOUR: Final = 3_600_000
_MS_PER_DAY: Final = 24 * _MS_PER_HOUR
_EPOCH_ORDINAL: Final = 719_163
"""``date(1970, 1, 1).toordinal()``: days count from there, as Arrow's do."""


@dataclass(frozen=True)
class Surroundings:
    """What a row is judged against besides itself."""

    utc_offset_hours: int
    references: Mapping[str, pa.Table]
    """Good rows of other tables, still text, by table name."""
    partition_days: Numbers
    """Day of the partition each row came from, in days since 1970; NaN for rows without one."""


def parse_rows(rows: pa.Table, contract: TableContract, surroundings: Surroundings) -> pd.DataFrame:
    """Return a frame of the rows: for each column its text, its parsed value, and what is derived.

    Parsed numbers are float64 (every accepted integer is exact); days count from 1970.
    """
    columns: dict[str, pd.Series] = {}
    for column in contract.file_columns:
        text = _categorical(rows[column.name])
        columns[column.text] = text
        if column.text != column.name:
            columns[column.name] = pd.Series(_take(text, _parse(distinct_texts(text), column)))
    for column in contract.derived_columns:
        columns[column.name] = _derive(column, contract, columns, surroundings)
    return pd.DataFrame(columns)


def stack(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return parsed frames of one contract below each other, their categoricals kept as such."""
    if len(frames) == 1:
        return frames[0]
    return pd.DataFrame(
        {
            name: union_categoricals([frame[name] for frame in frames])
            if isinstance(frames[0][name].dtype, pd.CategoricalDtype)
            else np.concatenate([frame[name].to_numpy() for frame in frames])
            for name in frames[0].columns
        }
    )


def text_columns(contract: TableContract) -> list[str]:
    """Return the names of the unparsed file columns in a parsed frame."""
    return [column.text for column in contract.file_columns]


def typed_rows(frame: pd.DataFrame, contract: TableContract) -> pa.Table:
    """Return the file columns of a parsed frame with their types, under their clean-log names."""
    schema = arrow_schema(contract)
    arrays = [
        _typed(frame[column.name], column, schema.field(position).type)
        for position, column in enumerate(contract.file_columns)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _typed(values: pd.Series, column: Column, kind: pa.DataType) -> pa.Array:
    if column.type == "string":
        return pa.array(values, from_pandas=True).cast(pa.string())
    if column.type == "array":
        lists = pa.array([_items(text) for text in values.cat.categories], kind)
        codes = values.cat.codes.to_numpy()
        return lists.take(pa.array(codes, mask=codes < 0))
    numbers = values.to_numpy(dtype=np.float64)
    missing = np.isnan(numbers)
    if column.type == "number":
        return pa.array(numbers, kind, mask=missing)
    whole_numbers = np.where(missing, 0, numbers).astype(np.int64)
    if column.type == "date":
        return pa.array(whole_numbers.astype(np.int32), pa.int32(), mask=missing).cast(kind)
    return pa.array(whole_numbers, kind, mask=missing)


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _categorical(values: pa.ChunkedArray) -> pd.Series:
    text = values.combine_chunks().cast(pa.string()).dictionary_encode().to_pandas()
    series = pd.Series(text)
    # A field that is there but empty says nothing either.
    return series.cat.remove_categories([""]) if "" in series.cat.categories else series


def _take(text: pd.Series, values: Numbers) -> Numbers:
    """Return the value of each row's text, given those of the distinct texts."""
    # Code -1 means missing; the appended NaN is what it picks.
    return np.append(values, np.nan)[text.cat.codes.to_numpy()]


def _parse(texts: pa.Array, column: Column) -> Numbers:
    if column.date_format:
        strptime_format = DATE_FORMATS[column.date_format][0]
        return np.array([_days_since_1970(text, strptime_format) for text in texts.to_pylist()])
    pattern = INTEGER_PATTERN if column.type == "integer" else NUMBER_PATTERN
    readable = pa.array(matching(texts, whole(pattern)))
    numbers = pc.if_else(readable, texts, None).cast(pa.float64())
    parsed: Numbers = numbers.to_numpy(zero_copy_only=False)
    return parsed


def _days_since_1970(text: str, strptime_format: str) -> float:
    try:
        day = datetime.strptime(text, strptime_format).replace(tzinfo=UTC)
    except ValueError:
        return np.nan
    return float(day.toordinal() - _EPOCH_ORDINAL)


def _derive(
    column: Column,
    contract: TableContract,
    columns: Mapping[str, pd.Series],
    surroundings: Surroundings,
) -> pd.Series:
    transform = column.transform
    if transform is None or transform.name not in _TRANSFORMS:
        raise ConfigError(
            f"contract {contract.contract!r}: {column.name} has transformLogic "
            f"{transform.name if transform else None!r}; known: {', '.join(_TRANSFORMS)}"
        )
    return _TRANSFORMS[transform.name](transform.sources, contract, columns, surroundings)


Sources = tuple[str, ...]
Columns = Mapping[str, pd.Series]


def _partition(
    _: Sources, __: TableContract, ___: Columns, surroundings: Surroundings
) -> pd.Series:
    return pd.Series(surroundings.partition_days)


def _days_from_partition(
    sources: Sources, contract: TableContract, columns: Columns, surroundings: Surroundings
) -> pd.Series:
    """Days from the row's partition to the day its source column names, negative when earlier."""
    column = next(column for column in contract.columns if column.name == sources[0])
    days = columns[column.name].to_numpy(dtype=np.float64)
    if column.type != "date":
        local_ms = days * column.milliseconds + surroundings.utc_offset_hours * _MS_PER_HOUR
        days = np.floor(local_ms / _MS_PER_DAY)
    return pd.Series(days - surroundings.partition_days)


def _is_in(
    sources: Sources, _: TableContract, columns: Columns, surroundings: Surroundings
) -> pd.Series:
    """1 where the value is in another table's column, 0 where not, missing where missing."""
    table, column = sources[1].split(".")
    text = columns[sources[0]]
    known = surroundings.references[table][column].combine_chunks()
    found = pc.is_in(distinct_texts(text), value_set=known)
    return pd.Series(_take(text, found.cast(pa.float64()).to_numpy(zero_copy_only=False)))


def _lookup(
    sources: Sources, _: TableContract, columns: Columns, surroundings: Surroundings
) -> pd.Series:
    """The text in another table's row with this key; missing where there is no such row."""
    table, key = sources[1].split(".")
    reference = surroundings.references[table]
    value = reference[sources[2].split(".")[1]]
    found = dict(zip(reference[key].to_pylist(), value.to_pylist(), strict=True))
    text = columns[sources[0]]
    return text.map(found).astype("category")


def _total(sources: Sources, _: TableContract, columns: Columns, __: Surroundings) -> pd.Series:
    return pd.Series(np.sum([columns[name].to_numpy(dtype=np.float64) for name in sources], axis=0))


_TRANSFORMS: Final[
    dict[str, Callable[[Sources, TableContract, Columns, Surroundings], pd.Series]]
] = {
    "partition": _partition,
    "days_from_partition": _days_from_partition,
    "is_in": _is_in,
    "lookup": _lookup,
    "total": _total,
}


def interactions_of(frame: pd.DataFrame, contract: TableContract) -> pa.Table:
    """Return parsed rows of a log in the form of the clean log (``interactions.yaml``)."""
    schema = arrow_schema(load_contract("interactions").table)
    arrays = []
    for target in schema:
        column = contract.canonical(target.name)
        values = frame[column.name]
        if pa.types.is_string(target.type):
            arrays.append(pa.array(values, from_pandas=True).cast(pa.string()))
        elif pa.types.is_boolean(target.type):
            arrays.append(pa.array(values.to_numpy() == 1))
        else:
            arrays.append(pa.array((values * column.milliseconds).to_numpy().astype(np.int64)))
    return pa.Table.from_arrays(arrays, schema=schema)
