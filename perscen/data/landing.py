"""A raw layout that grows by a day: what a platform's nightly export does."""

from __future__ import annotations

import json
import shutil
from datetime import date
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from perscen.data.raw_layout import NO_DATE, SOURCE_NAME, read_manifest, refuse_foreign
from perscen.errors import ArtifactError
from perscen.manifests import RawLogManifest, SourceFile
from perscen.staging import staged

_TABLES: Final = ("users", "items")


def land(day: date, *, source: Path, to: Path) -> RawLogManifest:
    """Add a day of one raw layout to another, with the feature tables as they are that day.

    Rows of no day come with it, since they are judged with the newest one. A day that is there is
    replaced. Each folder is swapped in whole and ``source.json``, which says that the day has
    landed, is written last: after a crash, landing the day again completes it.

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
    files = dict(_begun(exported, to).files)
    for folder in (*_TABLES, f"date={NO_DATE}", f"date={day}"):
        files = {name: file for name, file in files.items() if _folder(name) != folder}
        files |= _replace(folder, exported, source=source, to=to)
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


def _replace(
    folder: str, exported: RawLogManifest, *, source: Path, to: Path
) -> dict[str, SourceFile]:
    files = {name: file for name, file in exported.files.items() if _folder(name) == folder}
    if files:
        with staged(to / folder) as scratch:
            for name in files:
                shutil.copyfile(source / name, scratch / Path(name).name)
    elif (to / folder).exists():
        shutil.rmtree(to / folder)
    return files


def _write(manifest: RawLogManifest, to: Path) -> RawLogManifest:
    # A rename makes it appear whole; it lists what has landed.
    scratch = to / f".{SOURCE_NAME}"
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True)
    scratch.write_text(text + "\n", encoding="utf-8")
    scratch.replace(to / SOURCE_NAME)
    return manifest


def _folder(name: str) -> str:
    return name.split("/")[0]
