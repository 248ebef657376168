"""Where artifacts lie: in directories, or at addresses such as ``s3://bucket/runs/…/splits``."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from components.store import MANIFEST_NAME, SOURCE_NAME, open_raw_log
from perscen.errors import PerscenError

if TYPE_CHECKING:
    from components.adapters.object_store import Folder

logger = logging.getLogger(__name__)

Place: TypeAlias = Path | str
"""A directory, or an address that fsspec knows."""
_TABLES: Final = frozenset({"users", "items", "truth"})


def is_address(place: Place) -> bool:
    """Return whether a place lies in an object store."""
    return isinstance(place, str) and "://" in place


@contextmanager
def at_hand(places: Mapping[str, Place], *, scratch: Path | None) -> Iterator[dict[str, Path]]:
    """Give a local directory for every place: itself, or a stand-in that is removed afterwards.

    A stand-in does not exist yet. Errors raised meanwhile speak of the address it stands for.

    Args:
        places: By the artifact's name.
        scratch: Where the stand-ins lie, each step's in a folder of its own; the system's temporary
            directory by default.
    """
    away = {name: str(place) for name, place in places.items() if is_address(place)}
    local = {name: Path(place) for name, place in places.items() if name not in away}
    if not away:
        yield local
        return
    with working_directory(scratch) as folder:
        stand_ins = {name: folder / name for name in away}
        try:
            yield local | stand_ins
        except PerscenError as exc:
            for name, address in away.items():
                exc.message = exc.message.replace(str(stand_ins[name]), address)
                exc.hint = exc.hint.replace(str(stand_ins[name]), address)
            exc.args = (exc.message,)
            raise


@contextmanager
def working_directory(scratch: Path | None) -> Iterator[Path]:
    """Give a new directory in ``scratch``, or in the system's temporary one, and remove it."""
    if scratch is not None:
        scratch.mkdir(parents=True, exist_ok=True)
    # A transfer that is broken off may write a little longer, in its own thread.
    with tempfile.TemporaryDirectory(
        prefix="perscen-", dir=scratch, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def fetch_artifact(address: str, to: Path) -> None:
    """Copy an artifact into a directory; nothing, when it has no manifest and so does not exist.

    Raises:
        ConfigError: There is no such store or bucket, or it refuses us.
        ServiceUnavailable: It does not answer.
        StorageFull: There is no room for it.
    """
    folder = _folder(address)
    names = folder.names()
    if MANIFEST_NAME in names:
        folder.fetch(names, to)


def fetch_raw_log(address: str, to: Path, *, logical_date: date, window_days: int) -> None:
    """Copy what a run of a day reads of a raw log into a directory.

    Raises:
        ConfigError: As for :func:`fetch_artifact`, or the log has no such day.
        ArtifactError: It is no raw log, or lacks the day.
        ServiceUnavailable: The store does not answer.
        StorageFull: There is no room for it.
    """
    from data_contracts.raw_files import NO_DATE, RawFiles

    folder = _folder(address)
    names = folder.names()
    folder.fetch([name for name in names if name == SOURCE_NAME], to)
    manifest = open_raw_log(to).manifest
    parts = {name.split("/")[0] for name in names if "/" in name}
    for part in parts:
        (to / part).mkdir()  # also a partition that is not needed tells that its day is there
    window = RawFiles(to, manifest).window(logical_date, window_days)
    needed = _TABLES | {f"date={NO_DATE}"} | {f"date={day}" for day in window}
    folder.fetch([name for name in names if name.split("/")[0] in needed], to)


@contextmanager
def sent(local: Path, address: str, *, aftermath: str, resumes: bool) -> Iterator[None]:
    """Send a stand-in to its address once the block has made it.

    What the block leaves at ``<local><aftermath>`` is found at ``<address><aftermath>``, after a
    failure too.

    Args:
        local: The stand-in.
        address: What it stands for.
        aftermath: Ending of the directory that a step which fails leaves.
        resumes: Whether to bring back what the last attempt left there.

    Raises:
        ConfigError: There is no such store or bucket, or it refuses us.
        ServiceUnavailable: It does not answer.
    """
    left, remains = local.with_name(local.name + aftermath), _folder(address + aftermath)
    if resumes:
        logger.warning(
            "a checkpoint reaches the object store only when the step is told to stop; set "
            "PERSCEN_STATE to a directory on a volume to survive the loss of a node too"
        )
        if names := remains.names():
            remains.fetch(names, left)
    try:
        yield
    except PerscenError:
        try:
            remains.replace_with(left)
        except PerscenError as exc:  # the failure itself matters more
            logger.warning(
                "what the failed step left was not sent",
                extra={"address": remains.address, "reason": exc.message},
            )
        raise
    _folder(address).replace_with(local, seal=MANIFEST_NAME)
    remains.remove()


def _folder(address: str) -> Folder:
    from components.adapters.object_store import Folder  # fsspec: only where a place is away

    return Folder(address)
