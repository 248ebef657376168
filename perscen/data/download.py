"""The official KuaiRand-Pure archive: fetched resumably, checked, and unpacked safely."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import requests

from perscen.data.csv_tables import Progress
from perscen.errors import ArtifactError, ServiceUnavailable
from perscen.staging import is_full, staged, storage_full

_CHUNK_BYTES: Final = 1 << 18
_TIMEOUT_S: Final = (10.0, 60.0)
"""To connect, and between two answers."""
_TRY_LATER: Final = frozenset({408, 425, 429})


@dataclass(frozen=True)
class Archive:
    """A published archive.

    Attributes:
        root: Folder that all its members lie in.
        members: Files that are unpacked, relative to ``root``; others stay in the archive.
    """

    url: str
    num_bytes: int
    md5: str
    root: str
    members: tuple[str, ...]


KUAIRAND_PURE: Final = Archive(
    url="https://zenodo.org/records/10439422/files/KuaiRand-Pure.tar.gz",
    num_bytes=47_432_272,
    md5="0820331067a3784d9691136f772b35a7",
    root="KuaiRand-Pure",
    members=(
        "data/log_standard_4_08_to_4_21_pure.csv",
        "data/log_standard_4_22_to_5_08_pure.csv",
        "data/log_random_4_22_to_5_08_pure.csv",
        "data/user_features_pure.csv",
        "data/video_features_basic_pure.csv",
    ),
)


def download(
    cache: Path, *, archive: Archive = KUAIRAND_PURE, progress: Progress | None = None
) -> Path:
    """Return the folder of the unpacked archive below ``cache``, fetching what is not there yet.

    A download that broke off goes on where it stopped.

    Args:
        cache: Where archives are kept.
        archive: What to fetch.
        progress: Told of the bytes fetched.

    Returns:
        The folder ``archive.root`` with every member in it.

    Raises:
        ServiceUnavailable: The server did not answer, or the connection broke off.
        ArtifactError: The server has no such file, its bytes are not the published ones, or the
            archive's members are not the expected ones.
        StorageFull: The disk or quota filled up.
    """
    folder = cache / archive.root
    if all((folder / member).is_file() for member in archive.members):
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    packed = cache / PurePosixPath(archive.url).name
    if not packed.is_file():
        part = packed.with_name(packed.name + ".part")
        with _told_well(archive, part):
            _fetch(archive, part, progress)
        _check(archive, part)
        part.rename(packed)
    else:
        _check(archive, packed)
    _unpack(archive, packed, folder)
    return folder


@contextmanager
def _told_well(archive: Archive, part: Path) -> Iterator[None]:
    """Turn a broken connection and a full disk into errors that say what to do."""
    try:
        yield
    except requests.RequestException as exc:
        have = part.stat().st_size if part.exists() else 0
        raise ServiceUnavailable(
            f"{archive.url} could not be fetched: {exc} "
            f"({have:,} of {archive.num_bytes:,} bytes are here)",
            hint="run it again: it goes on where it stopped",
        ) from exc
    except OSError as exc:
        if is_full(exc):
            raise storage_full(exc, part) from exc
        raise


def _fetch(archive: Archive, part: Path, progress: Progress | None) -> None:
    have = part.stat().st_size if part.exists() else 0
    if have >= archive.num_bytes:
        return  # whole, or too long: the check sum decides
    headers = {"Range": f"bytes={have}-"} if have else {}
    with requests.get(archive.url, headers=headers, stream=True, timeout=_TIMEOUT_S) as answer:
        _refuse_status(archive, answer.status_code)
        if answer.status_code != requests.codes.partial_content:
            have = 0  # the server sends everything, whatever was asked for
        with part.open("ab" if have else "wb") as file:
            for chunk in answer.iter_content(_CHUNK_BYTES):
                file.write(chunk)
                have += len(chunk)
                if progress:
                    progress(have, archive.num_bytes)
    if have < archive.num_bytes:
        raise requests.ConnectionError("the connection was closed early")


def _refuse_status(archive: Archive, status: int) -> None:
    if status < requests.codes.bad_request:
        return
    if status >= requests.codes.server_error or status in _TRY_LATER:
        raise requests.HTTPError(f"the server answered {status}")
    raise ArtifactError(
        f"{archive.url} is not to be had: the server answered {status}",
        hint="get the archive elsewhere, unpack it, and give its folder with --from",
    )


def _check(archive: Archive, path: Path) -> None:
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if md5 != archive.md5:
        size = path.stat().st_size
        path.unlink()
        raise ArtifactError(
            f"what was fetched from {archive.url} is not the published archive: md5 {md5}, "
            f"{size:,} bytes; expected {archive.md5}, {archive.num_bytes:,} bytes",
            hint="it was deleted; run it again",
        )


def _unpack(archive: Archive, packed: Path, folder: Path) -> None:
    with staged(folder) as scratch:
        try:
            with tarfile.open(packed) as tar:
                for name, member in _wanted(archive, tar).items():
                    tar.extract(member.replace(name=name), scratch, filter="data")
        except (tarfile.TarError, EOFError) as exc:
            raise _strange(archive, str(exc)) from exc


def _wanted(archive: Archive, tar: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    """Return the members to unpack by name below the root, after judging all that are there."""
    members = {}
    for member in tar.getmembers():
        path = PurePosixPath(member.name)
        inside = path.parts[:1] == (archive.root,) and ".." not in path.parts
        if not inside or not (member.isfile() or member.isdir()):
            raise _strange(archive, f"{member.name!r} is no plain file below {archive.root}/")
        members[path.relative_to(archive.root).as_posix()] = member
    if missing := [name for name in archive.members if name not in members]:
        raise _strange(archive, f"{', '.join(missing)} missing")
    return {name: members[name] for name in archive.members}


def _strange(archive: Archive, what: str) -> ArtifactError:
    return ArtifactError(
        f"the archive from {archive.url} is not of the expected form: {what}",
        hint="nothing was unpacked; get the archive from its publisher",
    )
