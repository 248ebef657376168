"""Contracts as typed values, read from the Open Data Contract Standard files beside this module.

A rule is written once, in YAML: ``required``, ``logicalType`` and ``logicalTypeOptions`` of a
property are rules, and so is every ``quality`` entry. ``data_contracts.compile`` turns each into a
Great Expectations expectation and into a row predicate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

import yaml
from open_data_contract_standard.model import OpenDataContractStandard
from pydantic import ValidationError

from perscen.errors import ConfigError

FOLDER: Final = Path(__file__).resolve().parent
ColumnType = Literal["string", "integer", "number", "date", "array", "boolean"]
Severity = Literal["error", "warning"]

PRESENT: Final = "expect_column_values_to_not_be_null"
MATCHES: Final = "expect_column_values_to_match_regex"
BETWEEN: Final = "expect_column_values_to_be_between"
IN_SET: Final = "expect_column_values_to_be_in_set"
UNIQUE: Final = "expect_column_values_to_be_unique"
EXPECTATIONS: Final = frozenset({PRESENT, MATCHES, BETWEEN, IN_SET, UNIQUE})

INTEGER_PATTERN: Final = r"-?[0-9]{1,15}(\.0+)?"
"""Whole numbers a float64 holds exactly; files written by pandas end nullable ones in ``.0``."""
NUMBER_PATTERN: Final = r"-?([0-9]{1,30}(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,2})?"
"""Finite numbers: no ``nan``, no ``inf``, nothing that overflows."""
_TYPE_PATTERNS: Final = {
    "integer": (INTEGER_PATTERN, "a whole number"),
    "number": (NUMBER_PATTERN, "a finite number"),
}
_MONTH, _DAY = "(0[1-9]|1[0-2])", "(0[1-9]|[12][0-9]|3[01])"
DATE_FORMATS: Final = {
    "yyyyMMdd": ("%Y%m%d", f"[0-9]{{4}}{_MONTH}{_DAY}"),
    "yyyy-MM-dd": ("%Y-%m-%d", f"[0-9]{{4}}-{_MONTH}-{_DAY}"),
}
"""Per date format of the standard how Python writes it, and its pattern (blind to short months)."""


@dataclass(frozen=True)
class Transform:
    """How a property that is not in the file is derived (``data_contracts.parsing``)."""

    name: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Column:
    """One property of a table."""

    name: str
    type: ColumnType
    description: str
    required: bool
    canonical: str | None
    """Name it has in the clean log; ``None`` for what the clean log does not keep."""
    milliseconds: int
    """Milliseconds in the unit of a time column."""
    date_format: str | None
    transform: Transform | None

    @property
    def text(self) -> str:
        """Name of the unparsed text in a parsed frame; a string is its own text."""
        if self.transform is not None or self.type in {"string", "array"}:
            return self.name
        return f"{self.name} (text)"


@dataclass(frozen=True)
class Rule:
    """One expectation about one column, and the share of rows that may break it."""

    name: str
    column: str
    """Column of the parsed frame it looks at."""
    expectation: str
    kwargs: Mapping[str, Any]
    description: str
    tolerance: float
    severity: Severity


@dataclass(frozen=True)
class TableContract:
    """What a row of one table means and which rules it keeps."""

    name: str
    contract: str
    """Stem of the YAML file."""
    version: str
    columns: tuple[Column, ...]
    rules: tuple[Rule, ...]
    tolerance: float
    """Share of rows that may break any rule."""
    settings: Mapping[str, Any]
    """The table's other ``customProperties``."""

    @cached_property
    def file_columns(self) -> tuple[Column, ...]:
        """The columns a file of this table has."""
        return tuple(column for column in self.columns if column.transform is None)

    @cached_property
    def derived_columns(self) -> tuple[Column, ...]:
        """The columns worked out from others."""
        return tuple(column for column in self.columns if column.transform is not None)

    def canonical(self, name: str) -> Column:
        """Return the column that becomes ``name`` in the clean log.

        Raises:
            ConfigError: The contract maps no column to it.
        """
        for column in self.columns:
            if column.canonical == name:
                return column
        raise ConfigError(f"contract {self.contract!r} maps no column to {name!r}")


@dataclass(frozen=True)
class Contract:
    """One contract file: its table, and for a log also what a whole day of it must keep."""

    table: TableContract
    days: TableContract | None


@lru_cache(maxsize=32)
def load_contract(stem: str) -> Contract:
    """Return the contract in ``data_contracts/<stem>.yaml``.

    Raises:
        ConfigError: There is no such contract, or the file breaks the standard or uses what is not
            understood here.
    """
    path = FOLDER / f"{stem}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
        raise ConfigError(f"there is no data contract {stem!r}", hint=f"known contracts: {known}")
    return read_contract(path)


def read_contract(path: Path) -> Contract:
    """Return the contract in a YAML file; see :func:`load_contract`."""
    try:
        document = OpenDataContractStandard.from_file(str(path)).model_dump(by_alias=True)
        tables = [_table(schema, document, path.stem) for schema in document["schema"] or ()]
    except (ValidationError, yaml.YAMLError, KeyError, TypeError, ValueError) as exc:
        raise ConfigError(f"{path} is not a usable data contract: {exc}") from exc
    if not 1 <= len(tables) <= 2:
        raise ConfigError(f"{path} has {len(tables)} schema objects, expected a table and its days")
    if soft := [rule.name for rule in tables[0].rules if rule.severity == "warning"]:
        raise ConfigError(
            f"{path}: {', '.join(soft)} cannot be a warning: a row is good or it is not",
            hint="make it an error with a tolerance, or watch it in the table of days",
        )
    return Contract(tables[0], tables[1] if len(tables) > 1 else None)


def _table(schema: Mapping[str, Any], document: Mapping[str, Any], stem: str) -> TableContract:
    custom = _custom(schema)
    default = float(custom.get("ruleTolerance", 0.0))
    rules: list[Rule] = []
    columns: list[Column] = []
    for prop in schema["properties"]:
        column = _column(prop)
        columns.append(column)
        rules += _rules(prop, column, default)
    names = [rule.name for rule in rules]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two rules share a name: {', '.join(twice)}")
    return TableContract(
        name=schema["name"],
        contract=stem,
        version=str(document["version"]),
        columns=tuple(columns),
        rules=tuple(rules),
        tolerance=float(custom.get("tolerance", 0.0)),
        settings=custom,
    )


def _column(prop: Mapping[str, Any]) -> Column:
    custom = _custom(prop)
    options = prop["logicalTypeOptions"] or {}
    if prop["logicalType"] not in get_args(ColumnType):
        raise ValueError(f"{prop['name']} has logicalType {prop['logicalType']!r}")
    logic = prop["transformLogic"]
    return Column(
        name=prop["name"],
        type=cast("ColumnType", prop["logicalType"]),
        description=" ".join((prop["description"] or "").split()),
        required=bool(prop["required"]),
        canonical=custom.get("canonical"),
        milliseconds={"ms": 1, "s": 1000}[custom.get("unit", "ms")],
        date_format=options["format"] if prop["logicalType"] == "date" else None,
        transform=Transform(logic, tuple(prop["transformSourceObjects"] or ())) if logic else None,
    )


def _rules(prop: Mapping[str, Any], column: Column, default: float) -> Iterator[Rule]:
    tolerance = float(_custom(prop).get("tolerance", default))

    def rule(
        suffix: str, expectation: str, description: str, *, text: bool = False, **kwargs: Any
    ) -> Rule:
        return Rule(
            name=f"{column.name}_{suffix}",
            column=column.text if text else column.name,
            expectation=expectation,
            kwargs=kwargs,
            description=description,
            tolerance=tolerance,
            severity="error",
        )

    if column.required:
        yield rule("present", PRESENT, f"{column.name} is there", text=True)
    if column.transform is None:
        yield from _type_rule(column, rule)
    options = prop["logicalTypeOptions"] or {}
    low, high = options.get("minimum"), options.get("maximum")
    if low is not None or high is not None:
        yield rule(
            "in_range",
            BETWEEN,
            f"{column.name} is {bounds(low, high)}",
            min_value=low,
            max_value=high,
        )
    if pattern := options.get("pattern"):
        yield rule("matches", MATCHES, f"{column.name} matches {pattern}", regex=whole(pattern))
    if prop["unique"]:
        yield rule("unique", UNIQUE, f"no two rows share one {column.name}")
    for entry in prop["quality"] or ():
        yield _quality_rule(entry, column, tolerance)


def _type_rule(column: Column, rule: Callable[..., Rule]) -> Iterator[Rule]:
    if column.date_format:
        pattern, form = DATE_FORMATS[column.date_format][1], f"a day written {column.date_format}"
    elif column.type in _TYPE_PATTERNS:
        pattern, form = _TYPE_PATTERNS[column.type]
    else:
        return
    yield rule(
        f"is_{column.type}", MATCHES, f"{column.name} is {form}", text=True, regex=whole(pattern)
    )


def _quality_rule(entry: Mapping[str, Any], column: Column, default: float) -> Rule:
    if entry["engine"] != "greatExpectations":
        raise ValueError(f"quality {entry['name']!r} has engine {entry['engine']!r}")
    implementation = entry["implementation"]
    expectation = implementation["type"]
    if expectation not in EXPECTATIONS:
        raise ValueError(
            f"quality {entry['name']!r} uses {expectation}, which has no row predicate; "
            f"known: {', '.join(sorted(EXPECTATIONS))}"
        )
    return Rule(
        name=entry["name"],
        column=column.text if expectation in {PRESENT, MATCHES} else column.name,
        expectation=expectation,
        kwargs=implementation.get("kwargs", {}),
        description=" ".join((entry["description"] or "").split()),
        tolerance=float(_custom(entry).get("tolerance", default)),
        severity=cast("Severity", entry["severity"] or "error"),
    )


def whole(pattern: str) -> str:
    """Return a regular expression that matches only if all of a text does."""
    return rf"^(?:{pattern})\Z"


def bounds(low: float | None, high: float | None) -> str:
    """Return a range in words."""
    if low is None:
        return f"at most {high}"
    if high is None:
        return f"at least {low}"
    return f"between {low} and {high}"


def _custom(element: Mapping[str, Any]) -> dict[str, Any]:
    entries: Sequence[Mapping[str, Any]] = element["customProperties"] or ()
    return {entry["property"]: entry["value"] for entry in entries}
