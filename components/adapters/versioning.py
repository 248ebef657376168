"""DVC: every day's splits in its content-addressed store, found again by their hash or their day.

A remote is a folder or ``s3://bucket/prefix`` (endpoint and credentials from ``AWS_*``), laid out
as DVC lays it out, so that its own commands read it. Beside the files lies one pointer per day,
``splits/<logical date>.dvc``: any day, also a refused one, can be found from the remote alone. A
pod has no checkout, so no repository is needed: this works on DVC's object database itself.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import yaml
from dvc.config import ConfigError as DvcConfigError
from dvc.data_cloud import Remote
from dvc.fs import localfs, parse_external_url
from dvc_data.hashfile.build import build
from dvc_data.hashfile.tree import Tree
from dvc_objects.fs import generic

from components.adapters.stores import no_bucket, talking
from components.store import MANIFEST_NAME, VOLATILE
from perscen.errors import ArtifactError, ConfigError

logger = logging.getLogger(__name__)

_POINTERS: Final = "splits"
_HASH: Final = "md5"
_AGAIN: Final = "run the day again: what the remote lacks is sent once more"


@dataclass(frozen=True)
class Pointer:
    """What was committed for one day."""

    logical_date: date
    dvc: str
    """DVC's hash of the directory, ``<md5>.dir``."""
    digest: str
    """Our own digest of the artifact."""
    size_bytes: int
    num_files: int


def commit(path: Path, *, logical_date: date, remote: str) -> str:
    """Push a finished splits directory, write its day's pointer, and return DVC's hash.

    The hash is the one that ``dvc repro`` writes into ``dvc.lock`` for the same splits. Safe to
    repeat: what is there already is not sent again. A rerun with other content moves the pointer;
    what it pointed to stays, under its hash.

    Raises:
        ConfigError: The remote cannot be one, or refuses us.
        ServiceUnavailable: It does not answer.
        StorageFull: Its disk is full.
    """
    with talking(
        f"commit the splits of {logical_date} to {remote}", fills=Path(remote) / _POINTERS
    ):
        store = _open(remote)
        # Staged by reference: files go straight to the remote, and no cache of ours is kept.
        staging, meta, tree = build(store.odb, str(path), localfs, _HASH, ignore=_WithoutVolatile())
        assert isinstance(tree, Tree)
        files = {info.value: staging.get(info.value).path for _, _, info in tree}
        there = set(store.odb.oids_exist([*files, tree.oid]))
        lacking = sorted(set(files) - there)
        store.odb.add([files[oid] for oid in lacking], localfs, lacking, check_exists=False)
        if tree.oid not in there:
            # After what it lists: a commit that dies leaves nothing that looks whole.
            store.odb.add(tree.path, tree.fs, tree.oid, check_exists=False)
        manifest = json.loads((path / MANIFEST_NAME).read_text(encoding="utf-8"))
        pointer = Pointer(
            logical_date, tree.oid, manifest["digest"], meta.size or 0, meta.nfiles or 0
        )
        store.point(pointer)
    logger.info("splits committed", extra={"dvc": tree.oid, "files": len(lacking)})
    return str(tree.oid)


def committed(remote: str) -> list[Pointer]:
    """Return what was committed for each day, oldest day first.

    Raises:
        ConfigError: The remote cannot be one, or refuses us.
        ServiceUnavailable: It does not answer.
    """
    with talking(f"list the splits in {remote}"):
        return _open(remote).pointers()


def fetch(dvc: str, *, remote: str, to: Path) -> None:
    """Copy the directory of a hash into ``to``, an empty scratch directory.

    Raises:
        ArtifactError: The remote lacks a part of it, or a part has changed.
        ConfigError: The remote cannot be one, or refuses us.
        ServiceUnavailable: It does not answer.
    """
    with talking(f"fetch {dvc} from {remote}", fills=to):
        odb = _open(remote).odb
        try:
            listing = odb.fs.cat_file(odb.oid_to_path(dvc))
            _check(listing, dvc.removesuffix(".dir"), place=odb.oid_to_path(dvc))
            files = {to / name: oid for name, oid in _names(listing, origin=dvc).items()}
            places = [odb.oid_to_path(oid) for oid in files.values()]
            generic.copy(odb.fs, places, localfs, [str(path) for path in files])
            for path, place in zip(files, places, strict=True):
                _check(path.read_bytes(), files[path], place=place)
        except FileNotFoundError as exc:
            raise ArtifactError(
                f"{remote} lacks a part of {dvc}: {exc}",
                hint=f"was it cleaned by `dvc gc --cloud`? {_AGAIN}",
            ) from exc


class _WithoutVolatile:
    """What ``.dvcignore`` says, where there is no checkout to read it from."""

    def find(self, fs: Any, path: str) -> Iterator[str]:
        for root, _, names in self.walk(fs, path):
            yield from (fs.join(root, name) for name in names)

    def walk(self, fs: Any, path: str, **kwargs: Any) -> Iterator[tuple[str, Any, Any]]:
        for root, folders, names in fs.walk(path, **kwargs):
            folders[:] = [folder for folder in folders if folder not in VOLATILE]
            yield root, folders, [name for name in names if name not in VOLATILE]


@dataclass(frozen=True)
class _Store:
    """A remote: DVC's object database in it, and our pointers beside."""

    fs: Any
    path: str

    @property
    def odb(self) -> Any:
        return Remote("perscen", self.path, self.fs).odb

    def pointers(self) -> list[Pointer]:
        try:
            paths = self.fs.ls(self.fs.join(self.path, _POINTERS), detail=False)
        except FileNotFoundError:
            return []
        texts = self.fs.cat([path for path in paths if path.endswith(".dvc")])
        found = [_parse(text, origin=place) for place, text in texts.items()]
        return sorted(found, key=lambda pointer: pointer.logical_date)

    def point(self, pointer: Pointer) -> None:
        place = self.fs.join(self.path, _POINTERS, f"{pointer.logical_date}.dvc")
        text = _unparse(pointer)
        try:
            if self.fs.cat_file(place) == text:
                return
        except FileNotFoundError:
            pass
        # Replaced at once on a folder and on S3 alike: nobody reads half a pointer.
        self.fs.upload_fobj(io.BytesIO(text), place, size=len(text))


def _open(remote: str) -> _Store:
    try:
        fs, path = parse_external_url(remote)
    except (DvcConfigError, ImportError) as exc:
        raise ConfigError(
            f"{remote} cannot be a DVC remote: {exc}",
            hint="set PERSCEN_DVC_REMOTE to a folder or to s3://bucket/prefix",
        ) from exc
    if fs.protocol == localfs.protocol:
        root = Path(path)
        # An unmounted volume must not become a folder on the pod's own disk.
        if not root.parent.is_dir():
            raise ConfigError(
                f"{remote} cannot be a DVC remote: {root.parent} does not exist",
                hint="set PERSCEN_DVC_REMOTE to a folder on a mounted volume, or to s3://…",
            )
        return _Store(fs, str(root.resolve()))
    bucket = path.split("/")[0]
    try:
        fs.fs.info(bucket)
    except FileNotFoundError:
        raise no_bucket(remote, bucket) from None
    return _Store(fs, path.rstrip("/"))


def _check(content: bytes, expected: str, *, place: str) -> None:
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise ArtifactError(
            f"{place} in the DVC remote has changed: its md5 is {found}, expected {expected}",
            hint=f"remove it there, and {_AGAIN}",
        )


def _names(listing: bytes, *, origin: str) -> dict[str, str]:
    """Return the hash of each file of a directory by its name."""
    tree = Tree.from_list(json.loads(listing), hash_name=_HASH)
    if outside := ["/".join(key) for key, _, _ in tree if {"", ".."} & set(key)]:
        raise ArtifactError(
            f"{origin} names files outside of itself: {outside[0]}",
            hint="nothing was fetched; whoever wrote there is not one of ours",
        )
    return {"/".join(key): info.value for key, _, info in tree if info and info.value}


def _unparse(pointer: Pointer) -> bytes:
    out = {
        "md5": pointer.dvc,
        "size": pointer.size_bytes,
        "nfiles": pointer.num_files,
        "hash": _HASH,
        "path": f"splits-{pointer.logical_date}",
    }
    meta = {"logical_date": pointer.logical_date.isoformat(), "digest": pointer.digest}
    return yaml.safe_dump({"outs": [out], "meta": meta}, sort_keys=False).encode()


def _parse(text: bytes, *, origin: str) -> Pointer:
    try:
        tree = yaml.safe_load(text)
        (out,), meta = tree["outs"], tree["meta"]
        day = date.fromisoformat(meta["logical_date"])
        return Pointer(day, out["md5"], meta["digest"], out["size"], out["nfiles"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as exc:
        raise ArtifactError(f"{origin} is no pointer to splits: {exc}", hint=_AGAIN) from exc
