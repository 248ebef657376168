"""Vocabularies: values become rows, 0 for what was never seen, 1 for what is missing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from perscen.data.splits import Ints
from perscen.schema import FIRST_ROW, MISSING_ROW, UNKNOWN_ROW


def text_of(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as text, as vocabularies hold values; 9 and 9.0 are both "9"."""
    return column.cast(pa.string()).combine_chunks()


def vocabulary_of(values: pa.Array) -> list[str]:
    """Return the distinct values but for missing ones, in text order."""
    distinct: list[str] = pc.unique(values.drop_null()).to_pylist()
    return sorted(distinct)


def rows_of(values: pa.Array, vocabulary: Sequence[str]) -> Ints:
    """Return each value's vocabulary row."""
    encoded = values.dictionary_encode()
    known = pc.index_in(encoded.dictionary, value_set=pa.array(vocabulary, pa.string()))
    row_of_code = pc.fill_null(known, UNKNOWN_ROW - FIRST_ROW).to_numpy() + FIRST_ROW
    # The last entry stands for a null code.
    row_of_code = np.append(row_of_code, MISSING_ROW).astype(np.int32)
    codes = pc.fill_null(encoded.indices, len(row_of_code) - 1).to_numpy()
    rows: Ints = row_of_code[codes]
    return rows
