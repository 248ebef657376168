"""What runs inside a Kubeflow task: a step's command line, retried and reported.

Kubeflow gets the *source* of these functions (a lightweight component's ``additional_funcs``): each
must stand alone, imports included. The image holds ``components``.
"""

from __future__ import annotations


def logical_day(logical_date: str, days_back: int) -> str:
    """Return the day ``days_back`` days before ``logical_date``, both written YYYY-MM-DD.

    Raises:
        SystemExit: With code 78, a wrong setting: ``logical_date`` is not such a day.
    """
    import logging
    from datetime import date, timedelta

    try:
        return (date.fromisoformat(logical_date) - timedelta(days=days_back)).isoformat()
    except ValueError:
        # Some Kubeflow backends hand a recurring run's [[ScheduledTime...]] on as it stands.
        logging.error(  # noqa: TRY400 (a traceback says nothing more)
            "logical_date is %r, expected a day such as 2022-05-05; a macro that arrives here was "
            "not expanded by this Kubeflow: start the run with the day itself",
            logical_date,
        )
        raise SystemExit(78) from None


def run_step(
    argv: list[str],
    *,
    run_id: str,
    retries: int,
    retry_delay_s: int,
    refused: dict[str, object] | None = None,
) -> dict[str, object]:
    """Run a step's command line and return its Result, or ``refused`` where a refusal is one.

    Raises:
        SystemExit: With the step's own exit code.
    """
    import json
    import os
    import tempfile
    from pathlib import Path

    from components.fates import Fate, fate

    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "result.json"
        environment = {**os.environ, "PERSCEN_RESULT": str(result), "PERSCEN_RUN_ID": run_id}
        code = run_argv(argv, environment=environment, retries=retries, retry_delay_s=retry_delay_s)
        if fate(code) is Fate.DONE:
            told = json.loads(result.read_text(encoding="utf-8"))
            # Kubeflow's metadata store takes no nulls.
            return {name: value for name, value in told.items() if value is not None}
    if fate(code) is Fate.REFUSED and refused is not None:
        return refused
    raise SystemExit(code if code >= 0 else 128 - code)


def run_argv(
    argv: list[str], *, environment: dict[str, str], retries: int, retry_delay_s: int
) -> int:
    """Run a command line and return its exit code, after trying again what may pass.

    Kubeflow cannot tell exit codes apart, so those that are worth another try get it in here; but
    not once the pod is told to stop: then the process is told too, and its code is the last.
    """
    import logging
    import signal
    import subprocess
    import time

    from components.fates import Fate, fate

    process = None
    stopped = False

    def stop(_number: int, _frame: object) -> None:
        nonlocal stopped
        stopped = True
        if process is not None:
            process.terminate()

    signal.signal(signal.SIGTERM, stop)
    for left in range(retries, -1, -1):
        process = subprocess.Popen(argv, env=environment)
        if stopped:  # while the process was being started
            process.terminate()
        code = process.wait()
        if stopped or left == 0 or fate(code) is not Fate.RETRY:
            return code
        logging.warning(
            "exit code %d may pass: trying again in %d s, %d more at most",
            code,
            retry_delay_s,
            left,
        )
        for _ in range(retry_delay_s):  # second by second: a signal does not end a sleep
            if stopped:
                return code
            time.sleep(1)
    raise AssertionError("the last try returns")
