"""The raw layout (docs/architecture/artifacts.md): a log by day beside its two feature tables.

Rows stay text as they came: parsing and judging them is ``validate``'s work. The log may come in
any order of days; each day has one open file and a small buffer, so memory does not grow with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from perscen.errors import ArtifactError
from perscen.manifests import RawLogManifest, SourceFile
from perscen.staging import is_scratch, staged

Table = Literal["log", "users", "items"]
Source = Literal["kuairand-pure", "alimama", "synthetic"]

SOURCE_NAME: Final = "source.json"
NO_DATE: Final = "__HIVE_DEFAULT_PARTITION__"
_ROWS_PER_GROUP: Final = 1 << 16
_MAX_DAYS: Final = 400
"""A log of more days than this has a wrong time column; each day costs an open file."""


@dataclass
class _Part:
    """One Parquet file being written: rows wait here until they fill a row group."""

    path: Path
    writer: pq.ParquetWriter
    rows: int = 0
    waiting: list[pa.RecordBatch] = field(default_factory=list)
    num_waiting: int = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self.waiting.append(batch)
        self.num_waiting += batch.num_rows
        self.rows += batch.num_rows
        if self.num_waiting >= _ROWS_PER_GROUP:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            self.writer.write_table(pa.Table.from_batches(self.waiting))
        self.waiting, self.num_waiting = [], 0


class RawLayout:
    """A raw layout being written; see :func:`raw_layout`."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self._stack = stack
        self._parts: dict[str, _Part] = {}

    def add(self, table: Table, batch: pa.RecordBatch, *, days: pa.Array | None = None) -> None:
        """Append rows to a table.

        Args:
            table: Where the rows belong.
            batch: The rows; every column text.
            days: For the log, the day of each row as text (YYYY-MM-DD), null where it has none.

        Raises:
            ArtifactError: The log spans more days than any log does.
        """
        if table != "log":
            self._part(table, batch.schema).add(batch)
            return
        encoded = pc.fill_null(days, NO_DATE).dictionary_encode()
        for code, day in enumerate(encoded.dictionary.to_pylist()):
            rows = batch.filter(pc.equal(encoded.indices, code))
            self._part(f"date={day}", batch.schema).add(rows)

    def add_truth(self, name: str, table: pa.Table) -> None:
        """Write one table of what is known to be true of a synthetic log."""
        part = self._part("truth", table.schema, name=name)
        for batch in table.to_batches():
            part.add(batch)

    def close(self) -> dict[str, SourceFile]:
        """Finish every file and return what each holds, by name.

        Raises:
            ArtifactError: A table has no rows at all.
        """
        for part in self._parts.values():
            part.flush()
        self._stack.close()
        names = {name: self._parts[name] for name in sorted(self._parts)}
        for table, prefix in (("log", "date="), ("users", "users/"), ("items", "items/")):
            if not sum(part.rows for name, part in names.items() if name.startswith(prefix)):
                raise ArtifactError(
                    f"the {table} table has no rows, expected at least one",
                    hint="check that the source files are whole",
                )
        return {
            name: SourceFile(rows=part.rows, sha256=_sha256(part.path))
            for name, part in names.items()
        }

    def _part(self, folder: str, schema: pa.Schema, *, name: str = "part-0") -> _Part:
        key = f"{folder}/{name}.parquet"
        if key not in self._parts:
            if len(self._parts) > _MAX_DAYS:
                raise ArtifactError(
                    f"the log spans more than {_MAX_DAYS} days",
                    hint="check the column its days are read from",
                )
            path = self.directory / key
            path.parent.mkdir(exist_ok=True)
            writer = pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=True)
            self._parts[key] = _Part(path, self._stack.enter_context(writer))
        return self._parts[key]


@contextmanager
def raw_layout(to: Path, *, source: Source, contracts: Mapping[str, str]) -> Iterator[RawLayout]:
    """Give a raw layout to fill; it takes its place at ``to`` when the block ends well.

    A raw layout that is already there is replaced as one; on any error it stays as it was, and
    nothing half-written is left.

    Args:
        to: Where the raw layout goes.
        source: Which data set the log is.
        contracts: Contract per table ("log", "users", "items").

    Raises:
        ArtifactError: ``to`` holds something other than a raw layout, or a table stayed empty.
        StorageFull: The disk or quota filled up.
    """
    refuse_foreign(to)
    with staged(to) as scratch:
        with ExitStack() as stack:
            layout = RawLayout(scratch, stack)
            yield layout
            files = layout.close()
        manifest = RawLogManifest(source=source, contracts=dict(contracts), files=files)
        text = json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True)
        (scratch / SOURCE_NAME).write_text(text + "\n", encoding="utf-8")


def refuse_foreign(to: Path) -> None:
    """Refuse to write a raw layout over anything that is not one (or an empty directory).

    Raises:
        ArtifactError: ``to`` is a file, or holds what no raw layout has.
    """
    if not to.exists():
        return
    names = {path.name for path in to.iterdir()} if to.is_dir() else {to.name}
    names = {name for name in names if not is_scratch(name)}
    strange = sorted(name for name in names if not _belongs(name))
    if strange or (names and not _is_raw_log(to / SOURCE_NAME)):
        what = f"holds {strange[0]!r}" if strange else f"has no readable {SOURCE_NAME}"
        raise ArtifactError(
            f"{to} is not a raw layout ({what}), so it is not replaced",
            hint="give --to a new directory, or remove this one yourself",
        )


def read_manifest(directory: Path) -> RawLogManifest:
    """Return what a finished raw layout says of itself."""
    return RawLogManifest.model_validate_json((directory / SOURCE_NAME).read_bytes())


def _belongs(name: str) -> bool:
    return name in {SOURCE_NAME, "users", "items", "truth"} or name.startswith("date=")


def _is_raw_log(path: Path) -> bool:
    try:
        RawLogManifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return False
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
