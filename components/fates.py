"""What an exit code means for the run: the one failure policy every scheduler follows.

Schedulers may not import the library, so this file imports the standard library alone.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

REFUSED: Final = 10
"""``publish`` found a verdict that did not pass: the champion stays, and nothing is wrong."""
TEMPORARY: Final = 75
"""Preempted after writing a checkpoint, or a service did not answer."""
_KILLED: Final = frozenset({128 + 9, 128 + 15, -9, -15})
"""SIGKILL and SIGTERM, as a container and as a process report them: memory ran out, or the node
went away. A process that stopped in good order has another code."""


class Fate(Enum):
    """What becomes of a task whose process has ended."""

    DONE = "done"
    REFUSED = "refused"
    """Shown as skipped: no release today."""
    RETRY = "retry"
    """Tried again a bounded number of times."""
    FAILED = "failed"
    """Trying again would fail again."""


def fate(code: int) -> Fate:
    """Return what an exit code means; negative codes are signals, as :mod:`subprocess` has them."""
    if code == 0:
        return Fate.DONE
    if code == REFUSED:
        return Fate.REFUSED
    return Fate.RETRY if code == TEMPORARY or code in _KILLED else Fate.FAILED
