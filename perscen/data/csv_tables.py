"""CSV files read as they are: every column text, an empty field null, in constant memory.

A file is refused as a whole when its form is broken (header, number of fields, encoding, a torn
end); what its values mean is judged later, by ``validate``.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from perscen.data.raw_layout import Source, Table, raw_layout, read_manifest, refuse_foreign
from perscen.errors import ArtifactError
from perscen.manifests import RawLogManifest

Progress = Callable[[int, int], None]
"""Called with how many bytes are done, and of how many."""

_BLOCK_BYTES: Final = 4 << 20
_AGAIN: Final = "get the file again from where it came; nothing was written"


@dataclass(frozen=True)
class CsvTable:
    """One CSV file of a data set.

    Attributes:
        quoted: Whether fields may be quoted; where no field ever is, a quote is just a character
            and cannot swallow rows.
    """

    path: Path
    table: Table
    columns: tuple[str, ...]
    quoted: bool = False


def import_tables(
    tables: Sequence[CsvTable],
    to: Path,
    *,
    source: Source,
    contracts: Mapping[str, str],
    day_of: Callable[[pa.RecordBatch], pa.Array],
    progress: Progress | None = None,
) -> RawLogManifest:
    """Write CSV files as a raw layout.

    Args:
        tables: The files, each checked before the first row is written.
        to: Where the raw layout goes; one that is there already is replaced as a whole.
        source: Which data set it is.
        contracts: Contract per table.
        day_of: Gives the day of each row of the log as text, null where it has none.
        progress: Told of the bytes read.

    Returns:
        What the raw layout says of itself.

    Raises:
        ArtifactError: A file is missing or broken, or ``to`` holds something else.
        StorageFull: The disk or quota filled up.
    """
    for table in tables:
        if table.path.resolve().is_relative_to(to.resolve()):
            raise ArtifactError(
                f"{table.path} lies inside {to}, which would be replaced",
                hint="give --to a directory outside the source",
            )
    refuse_foreign(to)
    headers = [_check(table) for table in tables]
    total = sum(table.path.stat().st_size for table in tables)
    done = 0
    with raw_layout(to, source=source, contracts=contracts) as layout:
        for table, header in zip(tables, headers, strict=True):
            for batch, position in _read(table, header):
                days = day_of(batch) if table.table == "log" else None
                layout.add(table.table, batch, days=days)
                if progress:
                    progress(done + position, total)
            done += table.path.stat().st_size
    return read_manifest(to)


def _check(table: CsvTable) -> list[str]:
    """Return the header's columns after checking what can be seen without reading the file."""
    path = table.path
    if not path.is_file():
        raise ArtifactError(
            f"{path} does not exist", hint="give --from the folder of the official CSV files"
        )
    with path.open("rb") as file:
        first = file.readline()
        if not first:
            raise ArtifactError(f"{path} is empty, expected a header and rows", hint=_AGAIN)
        size = file.seek(-1, 2) + 1
        if file.read(1) != b"\n":
            raise _torn(path, f"at byte {size:,}, without a line break")
    try:
        names = next(csv.reader([first.decode("utf-8-sig")]), [])
    except UnicodeDecodeError as exc:
        _not_utf8(path, exc)
    header = [name.strip() for name in names]
    missing = [name for name in table.columns if name not in header]
    extra = [name for name in header if name not in table.columns]
    repeated = sorted({name for name in header if header.count(name) > 1})
    wrong = {"missing": missing, "not expected": extra, "twice": repeated}
    if any(wrong.values()):
        listed = "; ".join(f"{what}: {', '.join(map(repr, c))}" for what, c in wrong.items() if c)
        raise ArtifactError(
            f"{path}:1: the header is not the expected one ({listed})",
            hint=f"expected the columns {', '.join(table.columns)}",
        )
    return header


def _read(table: CsvTable, header: list[str]) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Yield the rows in blocks, each with the position in the file after it."""
    broken: list[Any] = []

    def note(row: Any) -> str:
        broken.append(row)
        return "error"

    with pa.OSFile(str(table.path)) as file:
        try:
            reader = pacsv.open_csv(
                file,
                read_options=pacsv.ReadOptions(
                    column_names=header,
                    skip_rows=1,
                    block_size=_BLOCK_BYTES,
                    use_threads=False,  # only then does a broken row know its number
                ),
                parse_options=pacsv.ParseOptions(
                    quote_char='"' if table.quoted else False, invalid_row_handler=note
                ),
                convert_options=pacsv.ConvertOptions(
                    column_types=dict.fromkeys(header, pa.string()),
                    include_columns=list(table.columns),
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
            for batch in reader:
                if table.quoted:
                    _refuse_line_breaks(table.path, batch)
                yield batch, file.tell()
        except pa.ArrowInvalid as exc:
            _explain(table.path, len(header), broken, exc)


def _explain(path: Path, num_fields: int, broken: list[Any], error: pa.ArrowInvalid) -> NoReturn:
    if broken:
        row = broken[0]
        if row.actual_columns < num_fields and _last_line(path) == row.text.encode():
            raise _torn(path, f"in row {row.number:,}, with {row.actual_columns} fields") from error
        raise ArtifactError(
            f"{path}:{row.number}: the row has {row.actual_columns} fields, expected {num_fields}",
            hint=_AGAIN,
        ) from error
    if "UTF8" in str(error):
        _find_not_utf8(path)
    raise ArtifactError(f"{path} cannot be read as CSV: {error}", hint=_AGAIN) from error


def _torn(path: Path, where: str) -> ArtifactError:
    return ArtifactError(
        f"{path} is truncated: it ends in the middle of a row ({where})", hint=_AGAIN
    )


def _last_line(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, 1 << 16), 2)
        return re.split(rb"\r?\n", file.read().rstrip(b"\r\n"))[-1]


def _refuse_line_breaks(path: Path, batch: pa.RecordBatch) -> None:
    """An unclosed quote swallows the rows up to the next quote; no real value has a line break."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pc.any(pc.match_substring(column, "\n")).as_py():
            raise ArtifactError(
                f"{path}: a quote opened in column {name!r} is not closed on its line", hint=_AGAIN
            )


def _find_not_utf8(path: Path) -> None:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as exc:
                _not_utf8(path, exc, line=number, before=file.tell() - len(line))


def _not_utf8(path: Path, error: UnicodeDecodeError, *, line: int = 1, before: int = 0) -> NoReturn:
    value = error.object[error.start]
    raise ArtifactError(
        f"{path}:{line}: byte {before + error.start:,} (0x{value:02x}) is not UTF-8",
        hint="convert the file to UTF-8, or get it again; nothing was written",
    ) from error
