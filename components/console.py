"""The console of the commands for people."""

from __future__ import annotations

from typing import Final

from rich.console import Console

_WIDTH: Final = 110


def open_console(*, width: int = _WIDTH) -> Console:
    """Return standard output, on which the names and ids of a log are printed as they are.

    Args:
        width: What a pipe or a file has room for; rich takes 80.
    """
    # Else the scenario `[/feed]` is markup that closes nothing: an error.
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        console.width = width
    return console
