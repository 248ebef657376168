"""Which run the report is written about, and what its artifacts share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path

DAY = date(2022, 5, 5)
SCENARIOS = ("1", "4", "2", "<script>alert(0)</script>")
BEST = (0.104, 0.236, 0.175, 0.412)
"""Best possible recall per scenario."""
USERS = (4812, 1105, 263, 341)


@dataclass(frozen=True)
class Run:
    """Which run to write: what a first release, a real log or a plain model leave out."""

    champion: bool = True
    truth: bool = True
    codebook: int = 10
    fusion: str = "glu"
    refused: bool = False


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value) + "\n", encoding="utf-8")
