"""Directories, and files of text, that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

from perscen.errors import PerscenError, StorageFull

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FULL_IN_WORDS: Final = (
    *(os.strerror(code) for code in sorted(_FULL)),
    "disk is full",  # SQLite
    " requested and ",  # numpy: "4104 requested and 3063 written"
)
_STAGED_PREFIX: Final = ".staged-"
_OLD: Final = "-old"
_DIGITS: Final = 8


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Give a scratch sibling of ``target`` that takes its place on success, or vanishes.

    What an earlier run left at ``target`` stays until the new one is whole; a scratch directory
    that a killed run left behind is removed first. The caller sees to it that no other process is
    staging the same target.

    Raises:
        StorageFull: The disk or quota filled up while writing.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for stale in _left_behind(target):
        if stale.name.endswith(_OLD) and not target.exists():
            stale.rename(target)  # killed between the two renames of a swap
        else:
            shutil.rmtree(stale, ignore_errors=True)
    scratch = _scratch_of(target)
    try:
        scratch.mkdir()
        yield scratch
        _swap(scratch, target)
    except PerscenError:
        raise
    except Exception as exc:
        if is_full(exc):
            raise storage_full(exc, target) from exc
        raise
    finally:
        _clear(scratch, *([_old(scratch)] if target.exists() else []))


def write_whole(path: Path, text: str) -> None:
    """Write a file of text in UTF-8; what was there stays until the new one is whole.

    Raises:
        StorageFull: The disk or quota filled up while writing.
    """
    scratch = _scratch_of(path)
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    except OSError as exc:
        if is_full(exc):
            raise storage_full(exc, path) from exc
        raise
    finally:
        scratch.unlink(missing_ok=True)


def is_scratch(name: str) -> bool:
    """Return whether a name is one that unfinished work has here; a killed run leaves it."""
    return name.startswith(_STAGED_PREFIX)


def _scratch_of(target: Path) -> Path:
    return target.with_name(f"{_STAGED_PREFIX}{target.name}-{uuid4().hex[:_DIGITS]}")


def _old(scratch: Path) -> Path:
    """Return where what a scratch directory replaces waits until the scratch is in its place."""
    return scratch.with_name(scratch.name + _OLD)


def _clear(*directories: Path) -> None:
    """Remove directories; a signal that comes meanwhile is heard when they are gone."""
    try:
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)
    except BaseException:
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)
        raise


def _left_behind(target: Path) -> list[Path]:
    """Return the scratch directories of killed runs: of this target, not of ``target-2``."""
    ours = re.compile(
        re.escape(f"{_STAGED_PREFIX}{target.name}-") + rf"[0-9a-f]{{{_DIGITS}}}({_OLD})?"
    )
    return [path for path in target.parent.iterdir() if ours.fullmatch(path.name)]


def is_full(error: Exception) -> bool:
    """Return whether an error means that the disk, the quota or the allowed file size ran out.

    Writers in C++ and Rust (Parquet, safetensors) and lists of errors (shutil) say so in words
    alone, numpy only that it wrote less than it wanted to.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    return any(words in str(error) for words in _FULL_IN_WORDS)


def storage_full(error: Exception, target: Path) -> StorageFull:
    """Return the error for a full disk, with how much is free where ``target`` lies."""
    free = shutil.disk_usage(target.parent).free
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return StorageFull(
        f"the disk filled up while writing {target} ({reason}); "
        f"{free / 2**20:,.0f} MiB are free there",
        hint="make room and run it again; nothing half-written was kept",
    )


def _swap(scratch: Path, target: Path) -> None:
    for path in sorted(scratch.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    if target.exists():
        old = _old(scratch)
        try:
            target.rename(old)
            scratch.rename(target)
        finally:  # Ctrl-C too: what was there is put back
            if not target.exists():
                old.rename(target)
    else:
        scratch.rename(target)
