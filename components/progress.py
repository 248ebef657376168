"""A bar for a person at a terminal; nothing where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from perscen.training.records import EpochRecord


class EpochBar:
    """One bar per epoch, gone when the epoch is, so that log lines stand between them."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def step_done(self, *, epoch: int, step: int, num_steps: int) -> None:
        """Move the bar."""
        if self._progress is None:
            self._progress = Progress(
                TextColumn("  {task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            name = f"epoch {epoch}" if epoch else "pre-training"
            self._progress.add_task(name, total=num_steps)
            self._progress.start()
        self._progress.update(self._progress.task_ids[0], completed=step)
        if step == num_steps:
            self.close()

    def pretraining_epoch_done(self, *, epoch: int, loss: float) -> None:
        """Do nothing: the bar goes on to the end of the stage."""

    def epoch_done(self, record: EpochRecord) -> None:
        """Do nothing: the log tells of epochs."""

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


@contextmanager
def epoch_bars() -> Iterator[list[EpochBar]]:
    """Give a bar when a person is looking, else none."""
    bars = [EpochBar()] if sys.stderr.isatty() else []
    try:
        yield bars
    finally:
        for bar in bars:
            bar.close()
