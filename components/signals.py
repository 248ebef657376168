"""SIGINT and SIGTERM as exceptions that end the program, wherever it is when they come."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any, Final

_COME_AGAIN_S: Final = 0.01
"""How long a signal waits that came where it cannot be told."""


class Terminated(BaseException):
    """SIGTERM came: an exception of no kind that anybody catches, so that all is tidied up."""


class Signals:
    """From now on SIGINT raises KeyboardInterrupt and SIGTERM ``Terminated``.

    Attributes:
        raised: What was raised last. Native code makes other exceptions of it (pybind11 an
            ImportError, safetensors a ValueError), so what arrives may be another one.
    """

    def __init__(self) -> None:
        self.raised: KeyboardInterrupt | Terminated | None = None
        self._hook_before = sys.unraisablehook
        sys.unraisablehook = self._lost
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def ignore(self) -> None:
        """Hear no more of them: it is too late to change what happened."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        sys.unraisablehook = self._hook_before

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if _called_by_polars(frame):
            # An exception that goes through its Rust ends as a panic: come again when it is done.
            self._come_again(number)
            return
        if number == signal.SIGINT:
            self.raised = KeyboardInterrupt()
        else:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # nor is the tidying up to be cut short
            self.raised = Terminated()
        raise self.raised

    def _lost(self, told: Any) -> None:
        """Hear of an exception that Python drops: of a destructor, or of a callback of its own."""
        if self.raised is None or told.exc_value is not self.raised:
            self._hook_before(told)
            return
        interrupted = isinstance(self.raised, KeyboardInterrupt)
        self._come_again(signal.SIGINT if interrupted else signal.SIGTERM)

    def _come_again(self, number: int) -> None:
        signal.signal(signal.SIGALRM, lambda _, frame: self._stop(number, frame))
        signal.setitimer(signal.ITIMER_REAL, _COME_AGAIN_S)


def _called_by_polars(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] == "polars":
            return True
        frame = frame.f_back
    return False
