"""One attempt at a time: a scheduler that lost sight of one may have started another."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from perscen.errors import ConfigError, ServiceUnavailable
from perscen.staging import is_full, storage_full

WAIT_S: Final = 300.0
"""Long enough for an attempt that was told to stop to write its checkpoint and go."""
_NO_LOCKS: Final = frozenset({errno.ENOSYS, errno.EOPNOTSUPP})
_NOT_WRITABLE: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR})


@contextmanager
def alone(place: Path, *, run_id: str) -> Iterator[None]:
    """Hold ``.lock-<name>`` beside a place, so that no other process works on it meanwhile.

    The lock is the operating system's and ends with the process, however that dies; on a network
    volume, when its server has noticed. The file stays: removing it would let two attempts hold
    two files of one name.

    Raises:
        ServiceUnavailable: Another attempt held it all the while; says which.
        ConfigError: The directory is not writable, or its file system has no locks.
        StorageFull: Not even the lock's file has room.
    """
    path = place.with_name(f".lock-{place.name}")
    lock = FileLock(
        path,
        timeout=WAIT_S,
        poll_interval=0.2,
        fallback_to_soft=False,  # that one would outlive its holder
        on_acquired=lambda file: _sign(file, run_id),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ServiceUnavailable(
            f"another attempt is still making {place}: {_holder(path)}",
            hint="it is tried again later; end the other attempt if nobody waits for it",
        ) from None
    except OSError as exc:
        raise _translate(exc, place) from exc
    try:
        yield
    finally:
        os.truncate(path, 0)
        lock.release()


def _sign(file: int, run_id: str) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}, run {run_id}".encode(), 0)


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") or "one that has just begun"
    except OSError:
        return "one that cannot be read"


def _translate(error: OSError, place: Path) -> Exception:
    if is_full(error):
        return storage_full(error, place)
    if error.errno in _NO_LOCKS:
        return ConfigError(
            f"the file system of {place.parent} has no locks, so two attempts of a step could "
            "destroy each other's work",
            hint="mount it with locks (Lustre: -o flock), or keep the runs in an object store",
        )
    if error.errno in _NOT_WRITABLE:
        return ConfigError(
            f"{place} cannot be written: {error.strerror}",
            hint="check --out, the volume's mount and the permissions of its directory",
        )
    return ServiceUnavailable(
        f"the file system of {place.parent} gives no lock: {error}",
        hint="check the volume and its server, and try again",
    )
