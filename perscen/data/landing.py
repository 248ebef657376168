"""A raw layout that grows by a day: what a platform's nightly export does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from perscen.data.raw_layout import NO_DATE, SOURCE_NAME, read_manifest, refuse_foreign
from perscen.errors import ArtifactError
from perscen.manifests import RawLogManifest
from perscen.staging import staged, write_whole

_TABLES: Final = ("users", "items")


def land(day: date, *, source: Path, to: Path) -> RawLogManifest:
    """Add a day of one raw layout to another, with the feature tables as they are that day.

    Rows of no day come with it, since they are judged with the newest one. A day that is there is
    replaced. Each folder is swapped in whole and ``source.json``, which says that the day has
    landed, is written last: after a crash, landing the day again completes it.

    All is copied before anything is swapped: the day first, the feature tables last. From then
    until ``source.json`` is there, moments later, another day's reader finds tables that it does
    not list and stops with an ArtifactError.

    Args:
        day: Which day of ``source``.
        source: The export, as ``perscen data`` writes one.
        to: The raw layout that grows; it is begun when it does not exist.

    Returns:
        What the grown raw layout holds.

    Raises:
        ArtifactError: ``source`` has no such day, either is no raw layout, or they are of different
            sources.
        StorageFull: The disk or quota filled up.
    """
    exported = _manifest_of(source)
    days = sorted({_folder(name) for name in exported.files if name.startswith("date=")})
    if f"date={day}" not in days:
        raise ArtifactError(
            f"{source} has no rows of {day}; it has {', '.join(days) or 'no day at all'}",
            hint="export that day first",
        )
    folders = (*_TABLES, f"date={NO_DATE}", f"date={day}")
    there = _begun(exported, to).files
    files = {name: file for name, file in there.items() if _folder(name) not in folders}
    with ExitStack() as swaps:  # it makes them in reverse order
        for folder in folders:
            new = {n: file for n, file in exported.files.items() if _folder(n) == folder}
            files |= new
            if new:
                _copy(new, source=source, to=swaps.enter_context(staged(to / folder)))
    if f"date={NO_DATE}" not in map(_folder, files):
        shutil.rmtree(to / f"date={NO_DATE}", ignore_errors=True)
    return _write(exported.model_copy(update={"files": dict(sorted(files.items()))}), to)


def _manifest_of(directory: Path) -> RawLogManifest:
    try:
        return read_manifest(directory)
    except (OSError, ValidationError) as exc:
        raise ArtifactError(
            f"{directory} is no raw layout: {SOURCE_NAME} cannot be read",
            hint="write the export with `perscen data`",
        ) from exc


def _begun(exported: RawLogManifest, to: Path) -> RawLogManifest:
    if not (to / SOURCE_NAME).exists():
        refuse_foreign(to)
        to.mkdir(parents=True, exist_ok=True)
        return _write(exported.model_copy(update={"files": {}}), to)
    there = _manifest_of(to)
    if (there.source, there.contracts) != (exported.source, exported.contracts):
        raise ArtifactError(
            f"{to} is a log of {there.source} under {there.contracts}, the export one of "
            f"{exported.source} under {exported.contracts}",
            hint="a raw layout has one source and one contract per table",
        )
    return there


def _copy(names: Iterable[str], *, source: Path, to: Path) -> None:
    for name in names:
        shutil.copyfile(source / name, to / Path(name).name)


def _write(manifest: RawLogManifest, to: Path) -> RawLogManifest:
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True)
    write_whole(to / SOURCE_NAME, text + "\n")  # it lists what has landed
    return manifest


def _folder(name: str) -> str:
    return name.split("/")[0]
