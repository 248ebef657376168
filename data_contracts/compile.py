"""One rule, compiled twice: to a Great Expectations expectation and to a row predicate.

The two are independent implementations of the same sentence; ``data_contracts.suites`` compares
their counts on every run, so neither can drift from the contract unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from data_contracts.contract import (
    BETWEEN,
    IN_SET,
    MATCHES,
    PRESENT,
    UNIQUE,
    Rule,
    TableContract,
)

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from numpy.typing import NDArray


def broken_rows(rule: Rule, frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Return, for each row of a parsed frame, whether it breaks the rule.

    As in Great Expectations, a missing value breaks no rule but the one that it be there.
    """
    return _PREDICATES[rule.expectation](frame[rule.column], rule.kwargs)


def _missing(values: pd.Series, _: Mapping[str, Any]) -> NDArray[np.bool_]:
    return values.isna().to_numpy()


def _no_match(values: pd.Series, kwargs: Mapping[str, Any]) -> NDArray[np.bool_]:
    # Each distinct text is judged once. Code -1 means missing; the appended False is what it picks.
    broken = ~matching(distinct_texts(values), kwargs["regex"])
    return np.append(broken, False)[values.cat.codes.to_numpy()]


def _outside(values: pd.Series, kwargs: Mapping[str, Any]) -> NDArray[np.bool_]:
    numbers = values.to_numpy(dtype=np.float64)
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    broken = np.zeros(len(numbers), dtype=np.bool_)
    if low is not None:
        broken |= numbers < low
    if high is not None:
        broken |= numbers > high
    return broken


def _not_in_set(values: pd.Series, kwargs: Mapping[str, Any]) -> NDArray[np.bool_]:
    return (values.notna() & ~values.isin(list(kwargs["value_set"]))).to_numpy()


def _repeated(values: pd.Series, _: Mapping[str, Any]) -> NDArray[np.bool_]:
    return (values.notna() & values.duplicated(keep=False)).to_numpy()


_PREDICATES: Final[dict[str, Callable[[pd.Series, Mapping[str, Any]], NDArray[np.bool_]]]] = {
    PRESENT: _missing,
    MATCHES: _no_match,
    BETWEEN: _outside,
    IN_SET: _not_in_set,
    UNIQUE: _repeated,
}


def distinct_texts(values: pd.Series) -> pa.Array:
    """Return the categories of a text column, in the order of their codes."""
    return pa.array(values.cat.categories, pa.string())


def matching(texts: pa.Array, regex: str) -> NDArray[np.bool_]:
    """Return which texts a regular expression of a rule matches."""
    # Great Expectations searches with Python's engine, Arrow with RE2, which spells end of text \z.
    found = pc.match_substring_regex(texts, regex.replace(r"\Z", r"\z"))
    matches: NDArray[np.bool_] = found.to_numpy(zero_copy_only=False)
    return matches


def expectation_suite(contract: TableContract) -> ExpectationSuite:
    """Return the contract's rules as a Great Expectations suite, with each rule's name as meta."""
    import great_expectations as gx
    from great_expectations import expectations

    def compiled(rule: Rule) -> Any:
        kind = getattr(expectations, "".join(word.title() for word in rule.expectation.split("_")))
        # "mostly" only colours the pages: data_contracts.judging decides, by the counts.
        return kind(
            column=rule.column,
            mostly=1.0 - rule.tolerance,
            description=rule.description,
            meta={"rule": rule.name},
            **rule.kwargs,
        )

    return gx.ExpectationSuite(
        name=f"{contract.contract}.{contract.name}",
        expectations=[compiled(rule) for rule in contract.rules],
    )


_ARROW_TYPE: Final[dict[str, pa.DataType]] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "date": pa.date32(),
    "array": pa.list_(pa.string()),
    "boolean": pa.bool_(),
}


def arrow_schema(contract: TableContract) -> pa.Schema:
    """Return names and types of the contract's file columns in a clean table, in its order."""
    return pa.schema(
        [
            (column.canonical or column.name, _ARROW_TYPE[column.type])
            for column in contract.file_columns
        ]
    )
