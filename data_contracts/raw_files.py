"""Reading the raw layout: whole files of text, or an error that names the file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.contract import TableContract
from perscen.errors import ArtifactError, ConfigError, ContractBreach
from perscen.manifests import RawLogManifest

NO_DATE: Final = "__HIVE_DEFAULT_PARTITION__"
"""Partition of rows whose date column is no date."""
_PREFIX: Final = "date="
_AGAIN: Final = "deliver the file again, or import the log again with `perscen data`"


@dataclass(frozen=True)
class RawFiles:
    """The files of one raw layout, checked against its source manifest as they are read."""

    directory: Path
    manifest: RawLogManifest

    def days(self) -> list[date]:
        """Return the days the log has a partition for, ascending.

        Raises:
            ArtifactError: A partition's name is no day.
        """
        names = {path.name for path in self.directory.glob(f"{_PREFIX}*") if path.is_dir()}
        names |= {name.split("/")[0] for name in self.manifest.files if name.startswith(_PREFIX)}
        return sorted(_day(name) for name in names if name != _PREFIX + NO_DATE)

    def window(self, logical_date: date, window_days: int) -> list[date]:
        """Return the days that a run of the logical date reads, ascending; it is the last of them.

        Raises:
            ConfigError: The logical date lies outside the log's days.
            ArtifactError: The log has no partition for it, or none at all.
        """
        days = self.days()
        if not days:
            raise ArtifactError(
                "the raw log has no day at all", hint="import a log with `perscen data`"
            )
        if not days[0] <= logical_date <= days[-1]:
            raise ConfigError(
                f"run.logical_date {logical_date} lies outside the log, whose days are {days[0]} "
                f"to {days[-1]}",
                hint="give a --logical-date that the log has",
            )
        if logical_date not in days:
            raise ArtifactError(
                f"the log has no partition for {logical_date}, though it has days from {days[0]} "
                f"to {days[-1]}",
                hint="wait for the day's delivery, or run for another day",
            )
        first = logical_date - timedelta(days=window_days - 1)
        return [day for day in days if first <= day <= logical_date]

    def read_day(self, day: date | None, contract: TableContract) -> pa.Table:
        """Return a day's rows as text, in the order of its files.

        ``None`` reads the rows without a day. A partition without files is an empty day.
        """
        name = NO_DATE if day is None else day.isoformat()
        return self._read(f"{_PREFIX}{name}", contract)

    def read_table(self, table: str, contract: TableContract) -> pa.Table:
        """Return the rows of a feature table as text.

        Raises:
            ArtifactError: There is no such table.
        """
        rows = self._read(table, contract)
        if not len(rows):
            raise ArtifactError(f"{self.directory / table} holds no rows", hint=_AGAIN)
        return rows

    def files(self, folder: str) -> list[Path]:
        """Return the Parquet files of a folder by name, with their contents checked.

        Raises:
            ArtifactError: A file of the source manifest is missing or has changed.
        """
        found = sorted((self.directory / folder).glob("*.parquet"))
        listed = {name for name in self.manifest.files if name.startswith(f"{folder}/")}
        for name in sorted(listed - {f"{folder}/{path.name}" for path in found}):
            raise ArtifactError(
                f"{self.directory / name} is missing, but source.json lists it", hint=_AGAIN
            )
        for path in found:
            self._check_contents(path, f"{folder}/{path.name}")
        return found

    def _check_contents(self, path: Path, name: str) -> None:
        if name not in self.manifest.files:
            return
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        expected = self.manifest.files[name].sha256
        if actual != expected:
            raise ArtifactError(
                f"{path} is truncated or changed: its sha256 is {actual[:12]}, source.json says "
                f"{expected[:12]}",
                hint=_AGAIN,
            )

    def _read(self, folder: str, contract: TableContract) -> pa.Table:
        schema = pa.schema([(column.name, pa.string()) for column in contract.file_columns])
        parts = [_text_of(path, contract).select(schema.names) for path in self.files(folder)]
        return pa.concat_tables([schema.empty_table(), *(part.cast(schema) for part in parts)])


def _day(name: str) -> date:
    try:
        return date.fromisoformat(name.removeprefix(_PREFIX))
    except ValueError:
        raise ArtifactError(
            f"partition {name!r} is no day, expected date=YYYY-MM-DD or date={NO_DATE}",
            hint="rename or remove the folder",
        ) from None


def _text_of(path: Path, contract: TableContract) -> pa.Table:
    try:
        # Not read_table: it would take the folder's name for a column.
        with pq.ParquetFile(path) as file:
            table = file.read()
        table.validate(full=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as exc:
        raise ArtifactError(
            f"{path} is truncated, or no Parquet file of UTF-8 text: {exc}", hint=_AGAIN
        ) from exc
    _check_columns(path, table.schema, contract)
    return table


def _check_columns(path: Path, schema: pa.Schema, contract: TableContract) -> None:
    expected = [column.name for column in contract.file_columns]
    missing = sorted(set(expected) - set(schema.names))
    unexpected = sorted(set(schema.names) - set(expected))
    if missing or unexpected or len(schema.names) != len(expected):
        raise ContractBreach(
            f"{path} does not have the columns of contract {contract.contract!r}: "
            f"missing {', '.join(missing) or 'none'}; unexpected {', '.join(unexpected) or 'none'}",
            hint="a new, renamed or removed column is a change of the contract: agree on it first",
        )
    typed = [f"{field.name} ({field.type})" for field in schema if not _is_text(field.type)]
    if typed:
        raise ContractBreach(
            f"{path} has columns that are not text: {', '.join(typed)}",
            hint="the raw layout keeps every column as text; parsing is the contract's work",
        )


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
    )
