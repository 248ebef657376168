"""Artifacts on disk: directories that appear whole or not at all, and are checked at every door."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from perscen.errors import ArtifactError
from perscen.manifests import MANIFEST, AnyManifest, Manifest, RawLogManifest
from perscen.staging import staged as staged
from perscen.staging import storage_full as storage_full

M = TypeVar("M", bound=BaseModel)
S = TypeVar("S", bound=Manifest)

MANIFEST_NAME: Final = "manifest.json"
SOURCE_NAME: Final = "source.json"
VOLATILE: Final = frozenset({"run.json", "data_docs", "index.html", "release.json"})
"""Names that differ from run to run: outside digests and what DVC hashes (``.dvcignore``)."""


@dataclass(frozen=True)
class Artifact(Generic[M]):
    """A checked artifact: its directory and what it says of itself."""

    path: Path
    manifest: M


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's contents, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def payload_files(directory: Path) -> Iterator[Path]:
    """Yield the files of an artifact that count for its digest, sorted by relative name."""
    for path in sorted(directory.rglob("*")):
        parts = path.relative_to(directory).parts
        if path.is_file() and not VOLATILE.intersection(parts) and parts != (MANIFEST_NAME,):
            yield path


def payload_digest(directory: Path) -> str:
    """Return the sha256 of an artifact's files alone: equal contents, whatever made them."""
    return _payload(directory).hexdigest()


def digest_of(directory: Path, manifest: Manifest) -> str:
    """Return the digest an artifact must carry: of its payload and its manifest's other fields."""
    sha = _payload(directory)
    fields = manifest.model_dump(mode="json", exclude={"digest"})
    sha.update(json.dumps(fields, sort_keys=True).encode())
    return sha.hexdigest()


def write_manifest(directory: Path, manifest: S) -> S:
    """Write the manifest with its digest, last of all files, and return it."""
    sealed = manifest.model_copy(update={"digest": digest_of(directory, manifest)})
    text = json.dumps(sealed.model_dump(mode="json"), indent=2, sort_keys=True)
    (directory / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")
    return sealed


def open_artifact(path: Path, *, kind: str) -> Artifact[AnyManifest]:
    """Return an artifact after checking its kind and digest.

    Raises:
        ArtifactError: There is none, it is unfinished, of another kind, from a newer version, or a
            byte of it has changed since it was made.
    """
    text = _read(path / MANIFEST_NAME, what=kind)
    manifest = _parse(text, origin=path / MANIFEST_NAME)
    if manifest.kind != kind:
        raise ArtifactError(
            f"{path} holds a {manifest.kind}, expected a {kind}", hint="check the order of --in"
        )
    actual = digest_of(path, manifest)
    if actual != manifest.digest:
        raise ArtifactError(
            f"{path} has changed since it was made: its digest is {actual[:12]}, its manifest says "
            f"{manifest.digest[:12]}",
            hint=f"run `{manifest.step}` again; the files of an artifact are never edited",
        )
    return Artifact(path, manifest)


def open_raw_log(path: Path) -> Artifact[RawLogManifest]:
    """Return the raw layout in ``path`` by its source manifest; files are checked when read.

    Raises:
        ArtifactError: There is no raw layout, or its manifest cannot be read.
    """
    text = _read(path / SOURCE_NAME, what="raw log")
    try:
        return Artifact(path, RawLogManifest.model_validate_json(text))
    except ValidationError as exc:
        raise ArtifactError(
            f"{path / SOURCE_NAME} is not a source manifest: {exc}", hint=_IMPORT_AGAIN
        ) from exc


_IMPORT_AGAIN: Final = "import the log again with `perscen data`"


def _payload(directory: Path) -> hashlib._Hash:
    sha = hashlib.sha256()
    for path in payload_files(directory):
        sha.update(f"{path.relative_to(directory).as_posix()}\0{file_digest(path)}\n".encode())
    return sha


def _read(path: Path, *, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ArtifactError(
            f"there is no finished {what} in {path.parent}: {path.name} is missing",
            hint=_IMPORT_AGAIN if what == "raw log" else "run the step that makes it",
        ) from None
    except (OSError, UnicodeDecodeError) as exc:
        raise ArtifactError(
            f"{path} cannot be read: {exc}", hint="run the step that makes it again"
        ) from exc


def _parse(text: str, *, origin: Path) -> AnyManifest:
    try:
        version = json.loads(text).get("schema_version")
    except (json.JSONDecodeError, AttributeError) as exc:
        raise ArtifactError(
            f"{origin} is not a manifest: {exc}", hint="run the step that makes it again"
        ) from exc
    if version != 1:
        raise ArtifactError(
            f"{origin} has schema version {version!r}; this program reads version 1",
            hint="use the version of perscen that made it, or run the step again",
        )
    try:
        return MANIFEST.validate_json(text)
    except ValidationError as exc:
        raise ArtifactError(
            f"{origin} is not a manifest: {exc}", hint="run the step that makes it again"
        ) from exc
