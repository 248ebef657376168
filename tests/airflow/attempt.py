"""One attempt at a step by Airflow's operator, as a worker makes it: a process that takes SIGTERM.

``python -m tests.airflow.attempt HOME GRACE_S STEP`` prints how the attempt ended as its last line.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any


def attempt(home: Path, *, grace_s: float, step: str) -> dict[str, Any]:
    """Run the operator, with SIGTERM wired as Airflow's task runner does it."""
    from dags._process import StepOperator

    operator = StepOperator(
        task_id=step,
        argv=["python", "-m", "components", step],
        home=home,
        environment={"MLFLOW_TRACKING_URI": "sqlite:///of-the-deployment.db"},
        termination_grace_s=grace_s,
    )
    signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())
    try:
        result = operator.execute({"run_id": "the run"})  # type: ignore[arg-type]
    except Exception as exc:  # noqa: BLE001 (it is told to the test)
        return {"raised": type(exc).__name__, "message": str(exc)}
    return {"result": result}


if __name__ == "__main__":
    for step in sys.argv[3:]:
        told = attempt(Path(sys.argv[1]), grace_s=float(sys.argv[2]), step=step)
        sys.stdout.write("\n" + json.dumps({step: told}) + "\n")
        sys.stdout.flush()
