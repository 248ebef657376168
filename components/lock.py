"""One attempt at a time: a scheduler that lost sight of one may have started another."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from components.places import Place
from perscen.errors import ConfigError, ServiceUnavailable
from perscen.staging import is_full, storage_full

WAIT_S: Final = 300.0
"""Long enough for an attempt that was told to stop to write its checkpoint and go."""
_NO_LOCKS: Final = frozenset({errno.ENOSYS, errno.EOPNOTSUPP})
_NOT_WRITABLE: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR})


@contextmanager
def alone(
    desk: Path,
    *,
    what: Place,
    run_id: str = "",
    wait_s: float = WAIT_S,
    hint: str = "it is tried again later; end the other attempt if nobody waits for it",
) -> Iterator[None]:
    """Hold ``.lock-<name>`` beside a path, so that no other process makes the same meanwhile.

    The lock is the operating system's and ends with the process, however that dies; on a network
    volume, when its server has noticed. The file stays: removing it would let two attempts hold
    two files of one name.

    Args:
        desk: A path that every attempt comes to.
        what: The output that is made there.
        run_id: Whose attempt this is, if anybody asks; told to the next one.
        wait_s: How long another attempt is waited for: a person would rather know at once.
        hint: What to do when it holds the lock all the while.

    Raises:
        ServiceUnavailable: Another attempt held it all the while; says which.
        ConfigError: The directory is not writable, or its file system has no locks.
        StorageFull: Not even the lock's file has room.
    """
    path = desk.with_name(f".lock-{desk.name}")
    lock = FileLock(
        path,
        timeout=wait_s,
        poll_interval=0.2,
        fallback_to_soft=False,  # that one would outlive its holder
        on_acquired=lambda file: _sign(file, run_id),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise ServiceUnavailable(
            f"another attempt is still making {what}: {_holder(path)}",
            hint=hint,
        ) from None
    except OSError as exc:
        raise _translate(exc, desk) from exc
    try:
        yield
    finally:
        with suppress(OSError):
            os.truncate(path, 0)
        lock.release()


def _sign(file: int, run_id: str) -> None:
    signature = f"process {os.getpid()} on {socket.gethostname()}"
    os.ftruncate(file, 0)
    os.pwrite(file, (f"{signature}, run {run_id}" if run_id else signature).encode(), 0)


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") or "one that has just begun"
    except OSError:
        return "one that cannot be read"


def _translate(error: OSError, desk: Path) -> Exception:
    if is_full(error):
        return storage_full(error, desk)
    if error.errno in _NO_LOCKS:
        return ConfigError(
            f"the file system of {desk.parent} has no locks, so two attempts of a step could "
            "destroy each other's work",
            hint="mount it with locks (Lustre: -o flock), or keep the runs in an object store",
        )
    if error.errno in _NOT_WRITABLE:
        return ConfigError(
            f"{desk} cannot be written: {error.strerror}",
            hint="check the path, the volume's mount and the permissions of its directory",
        )
    return ServiceUnavailable(
        f"the file system of {desk.parent} gives no lock: {error}",
        hint="check the volume and its server, and try again",
    )
