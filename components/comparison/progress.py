"""How far a comparison is: a bar at a terminal, and a line for each finished run everywhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class RunsBar:
    """One bar over all runs, below the lines of those that are finished."""

    def __init__(self, *, total: int, done: int) -> None:
        self._console = Console(stderr=True, soft_wrap=True)
        self._progress = Progress(
            TextColumn("  {task.fields[doing]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]} left"),
            console=self._console,
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task(
            "runs", total=total, completed=done, doing="", left="unknown time"
        )
        self._progress.start()

    def show(self, doing: str, *, left: str) -> None:
        """Set what is being done, and the time left."""
        self._progress.update(self._task, doing=escape(doing), left=left)

    def say(self, line: str) -> None:
        """Write a line above the bar."""
        self._console.print(escape(line), highlight=False)

    def step(self, line: str) -> None:
        """Write the line of a run that has ended, and move the bar."""
        self.say(line)
        self._progress.advance(self._task)

    def close(self) -> None:
        """Take the bar away; the lines stay."""
        self._progress.stop()


@contextmanager
def runs_bar(*, total: int, done: int) -> Iterator[RunsBar]:
    """Give a bar of ``total`` runs of which ``done`` are finished already."""
    bar = RunsBar(total=total, done=done)
    try:
        yield bar
    finally:
        bar.close()
