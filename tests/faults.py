"""Faults of the machine, planted where the operating system meets the program."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def full_disk(*, at_bytes: int = 4096) -> Iterator[None]:
    """Let no file of this process grow beyond a size: a quota that needs no mount and no root.

    The kernel then cuts the write short and says ``EFBIG``; Python ignores the signal it sends.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def flip_a_byte(path: Path, *, share: float = 0.5) -> None:
    """Change one byte of a file, ``share`` of the way through it."""
    content = bytearray(path.read_bytes())
    content[int(share * (len(content) - 1))] ^= 1
    path.write_bytes(content)
