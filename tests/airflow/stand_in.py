"""Steps that only behave as told: real processes with exit codes, log lines and results.

``python -m components STEP`` finds them where a directory made by :func:`stand_in` is the home.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SOURCE = """\
import json, os, signal, sys, time
from pathlib import Path

step = sys.argv[1]
day = sys.argv[sys.argv.index("--logical-date") + 1] if "--logical-date" in sys.argv else None
behaviour = json.loads(Path("behaviour.json").read_text())
told = behaviour.get(f"{step} {day}") or behaviour.get(step, {})
diary = Path("diary.txt")
attempt = diary.read_text().count(f"{step} started") if diary.exists() else 0

def note(what):
    with diary.open("a") as file:
        file.write(f"{step} {what}\\n")

def say(level, event, **values):
    line = {"level": level, "event": event, "run_id": os.environ["PERSCEN_RUN_ID"], **values}
    print(json.dumps(line), file=sys.stderr, flush=True)

def stop(*_):
    time.sleep(told["checkpoint_s"])
    note("stopped")
    sys.exit(75)

if "checkpoint_s" in told and attempt == 0:
    signal.signal(signal.SIGTERM, stop)
note("started")
say("info", "step started", airflow=sorted(k for k in os.environ if "AIRFLOW" in k))
for line in told.get("lines", []):
    say(**line) if isinstance(line, dict) else print(line, flush=True)
if "checkpoint_s" in told and attempt == 0:
    time.sleep(300)
codes = told.get("codes", [0])
code = codes[min(attempt, len(codes) - 1)]
if code == 0:
    result = {"step": step, "logical_date": day, "run_id": os.environ["PERSCEN_RUN_ID"]}
    Path(os.environ["PERSCEN_RESULT"]).write_text(json.dumps(result | told.get("result", {})))
    note("ended")
sys.exit(code)
"""


def stand_in(home: Path, behaviour: Mapping[str, Any] | None = None) -> Path:
    """Write steps that behave as told, by step, into an empty directory; return it.

    Args:
        home: Where to.
        behaviour: By step, or step and day (``publish 2022-05-04``): ``codes`` (exit code per
            attempt), ``lines`` (its log), ``result`` (what its Result has besides),
            ``checkpoint_s`` (the first attempt waits for SIGTERM, takes that long and exits 75). A
            step that is not named succeeds.
    """
    package = home / "components"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()  # or the repository's own would be found before it
    (package / "__main__.py").write_text(SOURCE)
    (home / "behaviour.json").write_text(json.dumps(behaviour or {}))
    return home


def diary(home: Path) -> list[str]:
    """What the steps did, in order."""
    path = home / "diary.txt"
    return path.read_text().splitlines() if path.exists() else []


def land(raw_log: Path, *days: str) -> None:
    """Write a ``source.json`` that names the days."""
    raw_log.mkdir(parents=True, exist_ok=True)
    files = {f"date={day}/part-0.parquet": {"rows": 1, "sha256": "0" * 64} for day in days}
    (raw_log / "source.json").write_text(json.dumps({"files": files}))


def python_for(home: Path) -> Path:
    """Write a ``python`` that runs the steps of ``home`` from anywhere; return its directory."""
    path = home / "bin" / "python"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\ncd {shlex.quote(str(home))}\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return path.parent
