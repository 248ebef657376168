"""Artifacts in an object store: fetched whole, sent with what makes them whole last.

Any address that fsspec knows will do; S3 is what is tested. Endpoint and credentials come from the
environment (``AWS_*``).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import fsspec  # type: ignore[import-untyped]

from components.adapters.stores import no_bucket, talking
from perscen.errors import ArtifactError, ConfigError

logger = logging.getLogger(__name__)

_AT_ONCE: Final = 8
"""Files sent together: S3's client holds each of them in memory, up to 100 MiB."""


@dataclass(frozen=True)
class Folder:
    """A directory in an object store: the objects whose names begin with its address."""

    address: str

    def names(self) -> list[str]:
        """Return the names of its objects below the address, sorted; none when it does not exist.

        Raises:
            ConfigError: There is no such bucket or kind of store, or it refuses us.
            ServiceUnavailable: It does not answer.
            ArtifactError: A name would lead out of the directory.
        """
        with talking(f"list {self.address}"):
            fs, root = self._open()
            try:
                paths = fs.find(root)
            except FileNotFoundError:
                self._check_bucket(fs, root)
                return []
        # A console marks an empty "folder" by an object whose name ends with a slash.
        names = sorted(path.removeprefix(root).lstrip("/") for path in paths if path[-1] != "/")
        if outside := [name for name in names if ".." in name.split("/")]:
            raise ArtifactError(
                f"{self.address} names files outside of itself: {outside[0]}",
                hint="nothing was fetched; whoever wrote there is not one of ours",
            )
        return [name for name in names if name]

    def fetch(self, names: Sequence[str], to: Path) -> None:
        """Copy objects into a directory, which is made.

        Raises:
            ConfigError: The store refuses us.
            ServiceUnavailable: It does not answer, or an object has vanished meanwhile.
            StorageFull: There is no room for them.
        """
        to.mkdir(parents=True, exist_ok=True)
        with talking(f"fetch {self.address}", fills=to):
            fs, root = self._open()
            for name in names:
                (to / name).parent.mkdir(parents=True, exist_ok=True)
            if names:
                fs.get([f"{root}/{name}" for name in names], [str(to / name) for name in names])
        logger.info("fetched", extra={"address": self.address, "files": len(names)})

    def replace_with(self, directory: Path, *, seal: str | None = None) -> None:
        """Make the folder hold what a local directory holds: nothing, when there is none.

        Args:
            directory: What is sent.
            seal: The file without which the folder is nothing: removed first and sent last, so that
                a folder which has it is whole.

        Raises:
            ConfigError: There is no such bucket or kind of store, or it refuses us.
            ServiceUnavailable: It does not answer.
        """
        files = {p.relative_to(directory).as_posix(): p for p in directory.rglob("*")}
        files = {name: path for name, path in sorted(files.items()) if path.is_file()}
        there = self.names()
        with talking(f"send to {self.address}"):
            fs, root = self._open()
            _remove(fs, root, [name for name in there if name == seal])
            _remove(fs, root, [name for name in there if name not in files and name != seal])
            _send(fs, root, {name: path for name, path in files.items() if name != seal})
            _send(fs, root, {name: path for name, path in files.items() if name == seal})
        if files:
            logger.info("sent", extra={"address": self.address, "files": len(files)})

    def remove(self) -> None:
        """Remove what there is.

        Raises:
            ConfigError: As for :meth:`replace_with`.
            ServiceUnavailable: The store does not answer.
        """
        names = self.names()
        with talking(f"remove {self.address}"):
            fs, root = self._open()
            _remove(fs, root, names)

    def _open(self) -> tuple[Any, str]:
        # Another process writes there too: what was listed once is not true for ever.
        try:
            fs, root = fsspec.url_to_fs(self.address, use_listings_cache=False)
        except (ImportError, ValueError) as exc:
            raise ConfigError(
                f"{self.address} is no address of a store we can reach: {exc}",
                hint="write s3://bucket/path, or install fsspec's package for that kind of store",
            ) from exc
        return fs, root.rstrip("/")

    def _check_bucket(self, fs: Any, root: str) -> None:
        bucket = root.lstrip("/").split("/")[0]
        if "s3" in fs.protocol and not fs.exists(bucket):
            raise no_bucket(self.address, bucket)


def _remove(fs: Any, root: str, names: list[str]) -> None:
    if names:
        fs.rm([f"{root}/{name}" for name in names])


def _send(fs: Any, root: str, files: dict[str, Path]) -> None:
    names = list(files)
    for first in range(0, len(names), _AT_ONCE):
        some = names[first : first + _AT_ONCE]
        fs.put([str(files[name]) for name in some], [f"{root}/{name}" for name in some])
