"""A release as one directory: its layout, writing it, and checking every byte before use.

::

    bundle.json                    BundleManifest, written last
    pairs/<fingerprint>/model/     both towers' weights, settings, schema, vocabularies, scalers
    pairs/<fingerprint>/indexes/   per scenario: <scenario>.faiss, .items.parquet, .json
    pairs/<fingerprint>/users/     features and histories up to the logical date, when shipped
    pairs/<fingerprint>/probes.parquet
    manifests/<artifact>.json      of the artifacts it comes from: what to make it again with
    report/                        for people; outside the bundle id, and may be left out of a copy
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError

from perscen.data.splits import Splits
from perscen.digests import json_digest
from perscen.errors import ArtifactError
from perscen.manifests import Record
from perscen.retrieval.index import file_stem
from perscen.retrieval.pair import Pair
from perscen.retrieval.probes import Probes
from perscen.retrieval.served import ServedUsers

BUNDLE_NAME: Final = "bundle.json"
REPORT: Final = "report"
MANIFESTS: Final = "manifests"
_MODEL_FILES: Final = (
    "model.json",
    "scalers.json",
    "schema.json",
    "vocabularies.json",
    "weights.safetensors",
)
_REPORT_FILES: Final = "files.json"
_INDEX_SUFFIXES: Final = (".faiss", ".items.parquet", ".json")
_ANOTHER: Final = "download the release again, or go back to another one"


# It becomes a directory's name, so nothing but a digest may pass.
Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileRecord(Record):
    """What a file of the bundle must be."""

    size_bytes: int
    sha256: str


class Lineage(Record):
    """Where a bundle comes from; digests of artifacts, hashes of code and settings."""

    logical_date: date
    splits_digest: str
    model_digest: str
    indexes_digest: str
    verdict_digest: str
    code_version: str
    """Of the step that trained the model."""
    config_digest: str
    """Of the settings the model was trained with."""
    previous_bundle_id: str | None
    """The release that the verdict was judged against."""


class BundleManifest(Record):
    """What a bundle says of itself; equal content gives an equal ``bundle_id``."""

    kind: Literal["bundle"] = "bundle"
    schema_version: Literal[1] = 1
    bundle_id: str = ""
    family: str
    dim: int
    metric: Literal["inner_product"] = "inner_product"
    scenarios: dict[str, Fingerprint]
    """Fingerprint of the pair that answers for each scenario."""
    lineage: Lineage
    files: dict[str, FileRecord]
    """Every file but this one and those of the report."""

    @property
    def content_id(self) -> str:
        """The sha256 over everything else in the manifest, and so over every file."""
        fields = self.model_dump(mode="json", exclude={"bundle_id"})
        return json_digest(fields)


@dataclass(frozen=True)
class Bundle:
    """A checked bundle: its directory and its manifest."""

    path: Path
    manifest: BundleManifest

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The fingerprints of its pairs."""
        return tuple(sorted(set(self.manifest.scenarios.values())))

    def model_directory(self, fingerprint: str) -> Path:
        """Return where a pair's model lies, in the layout of the model artifact."""
        return self.path / "pairs" / fingerprint / "model"

    def indexes_directory(self, fingerprint: str) -> Path:
        """Return where a pair's indexes lie, in the layout of the indexes artifact."""
        return self.path / "pairs" / fingerprint / "indexes"

    def open_pair(self, fingerprint: str) -> Pair:
        """Return a pair with the scenarios it answers for.

        Raises:
            ArtifactError: Its parts are of different spaces.
        """
        routed = self.manifest.scenarios.items()
        return Pair.open(
            model=self.model_directory(fingerprint),
            indexes=self.indexes_directory(fingerprint),
            scenarios=[scenario for scenario, pair in routed if pair == fingerprint],
            fingerprint=fingerprint,
        )

    def open_probes(self, fingerprint: str) -> Probes:
        """Return a pair's probes."""
        return Probes.open(self.path / "pairs" / fingerprint / "probes.parquet")

    def open_users(self, fingerprint: str) -> ServedUsers | None:
        """Return the users in the rows of a pair's vocabularies; None when they are not shipped."""
        directory = self.path / "pairs" / fingerprint / "users"
        return ServedUsers.open(directory) if directory.is_dir() else None


def write_bundle(
    directory: Path,
    *,
    model: Path,
    indexes: Path,
    fingerprint: str,
    splits: Splits,
    lineage: Lineage,
    num_probes: int,
    include_users: bool,
    report: Sequence[Path] = (),
    manifests: Mapping[str, Path] | None = None,
) -> Bundle:
    """Write a bundle into an empty directory, its manifest last.

    Args:
        directory: Where to.
        model: The model artifact.
        indexes: The indexes artifact.
        fingerprint: The space both are of.
        splits: Whose users are served and probed.
        lineage: Where it comes from.
        num_probes: Canary users per scenario.
        include_users: Whether user features and histories are shipped.
        report: Files for people; they do not change the bundle id.
        manifests: Manifests of the artifacts it comes from, by name.

    Raises:
        ArtifactError: Model and indexes are of different spaces.
    """
    pair_directory = directory / "pairs" / fingerprint
    scenarios = splits.schema.scenarios
    stems = [file_stem(scenario) for scenario in scenarios]
    _copy(model, _MODEL_FILES, to=pair_directory / "model")
    names = [f"{stem}{suffix}" for stem in stems for suffix in _INDEX_SUFFIXES]
    _copy(indexes, names, to=pair_directory / "indexes")
    users = ServedUsers.of(splits)
    if include_users:
        users.save(pair_directory / "users")
    pair = Pair.open(
        model=pair_directory / "model",
        indexes=pair_directory / "indexes",
        scenarios=scenarios,
        fingerprint=fingerprint,
    )
    Probes.ask(pair, users, num_users=num_probes).save(pair_directory / "probes.parquet")
    for name, path in (manifests or {}).items():
        (directory / MANIFESTS).mkdir(exist_ok=True)
        shutil.copyfile(path, directory / MANIFESTS / f"{name}.json")
    for path in report:
        _copy(path.parent, [path.name], to=directory / REPORT)
    if report:
        _write_json(directory / REPORT / _REPORT_FILES, _records(directory / REPORT))
    manifest = BundleManifest(
        family=pair.model.family,
        dim=pair.model.dim,
        scenarios=dict.fromkeys(scenarios, fingerprint),
        lineage=lineage,
        files={n: r for n, r in _records(directory).items() if not n.startswith(f"{REPORT}/")},
    )
    manifest = manifest.model_copy(update={"bundle_id": manifest.content_id})
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True)
    (directory / BUNDLE_NAME).write_text(text + "\n", encoding="utf-8")
    return Bundle(directory, manifest)


def open_bundle(directory: Path) -> Bundle:
    """Return a bundle after checking the name, size and sha256 of every file in it.

    Raises:
        ArtifactError: There is none, it is from a newer version, or a file is missing, too many,
            or not what it was when the bundle was made.
    """
    manifest = _read_manifest(directory / BUNDLE_NAME)
    if manifest.content_id != manifest.bundle_id:
        raise ArtifactError(
            f"{directory / BUNDLE_NAME} has changed: it calls itself {manifest.bundle_id[:12]}, "
            f"its content makes it {manifest.content_id[:12]}",
            hint=_ANOTHER,
        )
    actual = {path.relative_to(directory).as_posix(): path for path in _files(directory)}
    actual.pop(BUNDLE_NAME)
    in_report = {name: actual.pop(name) for name in list(actual) if name.startswith(f"{REPORT}/")}
    _check(actual, manifest.files)
    if in_report:
        index = in_report.pop(f"{REPORT}/{_REPORT_FILES}", directory / REPORT / _REPORT_FILES)
        recorded = _read_report_files(index)
        _check(in_report, {f"{REPORT}/{name}": record for name, record in recorded.items()})
    return Bundle(directory, manifest)


def _check(actual: Mapping[str, Path], recorded: Mapping[str, FileRecord]) -> None:
    if missing := sorted(set(recorded) - set(actual)):
        raise ArtifactError(f"the bundle lacks {', '.join(missing)}", hint=_ANOTHER)
    if extra := sorted(set(actual) - set(recorded)):
        raise ArtifactError(
            f"the bundle has files it does not list: {', '.join(extra)}", hint=_ANOTHER
        )
    for name, path in actual.items():
        record, found = recorded[name], _record(path)
        if found != record:
            raise ArtifactError(
                f"{name} of the bundle has changed: {found.size_bytes:,} bytes with sha256 "
                f"{found.sha256[:12]}, expected {record.size_bytes:,} with {record.sha256[:12]}",
                hint=_ANOTHER,
            )


def _read_manifest(path: Path) -> BundleManifest:
    try:
        text = path.read_text(encoding="utf-8")
        version = json.loads(text).get("schema_version")
    except FileNotFoundError:
        raise ArtifactError(
            f"{path.parent} is no bundle: {path.name} is missing", hint=_ANOTHER
        ) from None
    except (OSError, ValueError, AttributeError) as exc:
        raise ArtifactError(
            f"{path} is not the manifest of a bundle: {exc}", hint=_ANOTHER
        ) from exc
    if version != 1:
        raise ArtifactError(
            f"{path} has schema version {version!r}; this program reads version 1",
            hint="use the version of perscen that published it",
        )
    try:
        return BundleManifest.model_validate_json(text)
    except ValidationError as exc:
        raise ArtifactError(
            f"{path} is not the manifest of a bundle: {exc}", hint=_ANOTHER
        ) from exc


_FILE_RECORDS: Final = TypeAdapter(dict[str, FileRecord])


def _read_report_files(path: Path) -> dict[str, FileRecord]:
    try:
        return _FILE_RECORDS.validate_json(path.read_bytes())
    except (OSError, ValidationError) as exc:
        raise ArtifactError(
            f"{path} does not list the report's files: {exc}", hint=_ANOTHER
        ) from exc


def _copy(source: Path, names: Sequence[str], *, to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(source / name, to / name)


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file())


def _records(directory: Path) -> dict[str, FileRecord]:
    return {path.relative_to(directory).as_posix(): _record(path) for path in _files(directory)}


def _record(path: Path) -> FileRecord:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(size_bytes=path.stat().st_size, sha256=sha256)


def _write_json(path: Path, records: Mapping[str, FileRecord]) -> None:
    text = json.dumps({n: r.model_dump() for n, r in records.items()}, indent=2, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")
