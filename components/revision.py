"""The revision of the code that runs, for whoever wants to check it out again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parent.parent
_UNTOLD: Final = "unknown"
"""What an image says that was built without a revision."""


def revision() -> str | None:
    """Return ``PERSCEN_REVISION``, which an image is built with, else git's HEAD, else None.

    A hint only: what code made an artifact stands in its ``code_version``, changes that were never
    committed included.
    """
    if told := os.environ.get("PERSCEN_REVISION"):
        return None if told == _UNTOLD else told
    if not (_ROOT / ".git").exists():
        return None  # installed below somebody else's repository
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=_ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return asked.stdout.strip()
