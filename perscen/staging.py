"""Directories that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

from perscen.errors import PerscenError, StorageFull

_STAGED_PREFIX: Final = ".staged-"
_OLD: Final = "-old"


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Give a scratch sibling of ``target`` that takes its place on success, or vanishes.

    What an earlier run left at ``target`` stays until the new one is whole; a scratch directory
    that a killed run left behind is removed first.

    Raises:
        StorageFull: The disk or quota filled up while writing.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for stale in target.parent.glob(f"{_STAGED_PREFIX}{target.name}-*"):
        if stale.name.endswith(_OLD) and not target.exists():
            stale.rename(target)  # killed between the two renames of a swap
        else:
            shutil.rmtree(stale, ignore_errors=True)
    scratch = target.parent / f"{_STAGED_PREFIX}{target.name}-{uuid4().hex[:8]}"
    scratch.mkdir()
    try:
        yield scratch
        _swap(scratch, target)
    except OSError as exc:
        if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise storage_full(exc, target) from exc
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def storage_full(error: OSError, target: Path) -> PerscenError:
    """Return the error for a full disk, with how much is free where ``target`` lies."""
    free = shutil.disk_usage(target.parent).free
    return StorageFull(
        f"the disk filled up while writing {target} ({error.strerror}); "
        f"{free / 2**20:,.0f} MiB are free there",
        hint="make room and run it again; nothing half-written was kept",
    )


def _swap(scratch: Path, target: Path) -> None:
    for path in sorted(scratch.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    if target.exists():
        old = scratch.with_name(scratch.name + _OLD)
        target.rename(old)
        try:
            scratch.rename(target)
        except OSError:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        scratch.rename(target)
