"""A whole Airflow of its own on free loopback ports: API, scheduler, DAG processor, triggerer."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import requests

from tests.conftest import ROOT

BIN = Path(sys.executable).parent
_ENDED = frozenset({"success", "failed"})
_STOP_S = 30
_TURNS = """\
from sqlalchemy import event
from sqlalchemy.engine import Engine


@event.listens_for(Engine, "connect")
def _leave_transactions_to_us(connection, _):
    connection.isolation_level = None


@event.listens_for(Engine, "begin")
def _take_the_turn_at_once(connection):
    connection.exec_driver_sql("BEGIN IMMEDIATE")
"""
"""For our commands on SQLite: Airflow reads and then writes in one transaction, which SQLite
refuses at once, as locked, when the scheduler has written in between."""
T = TypeVar("T")


@dataclass(frozen=True)
class Airflow:
    """A running Airflow; ``environment`` is what its commands need."""

    url: str
    environment: Mapping[str, str]
    log: Path

    def run(self, *argv: str, timeout: float = 180) -> str:
        """Run ``airflow ARGV`` against this Airflow and return what it printed."""
        environment = dict(self.environment)
        if environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith("sqlite"):
            settings = self.log.parent / "turns" / "airflow_local_settings.py"
            settings.parent.mkdir(exist_ok=True)
            settings.write_text(_TURNS)
            environment["PYTHONPATH"] += f"{os.pathsep}{settings.parent}"
        done = subprocess.run(
            [BIN / "airflow", *argv],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"airflow {' '.join(argv)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def get(self, path: str, **query: Any) -> Any:
        """Return the JSON at a path of the API, such as ``dags/perscen_daily/dagRuns``."""
        return self._ask("GET", path, params=query)

    def post(self, path: str, **body: Any) -> Any:
        """Post JSON to a path of the API."""
        return self._ask("POST", path, json=body)

    def patch(self, path: str, **body: Any) -> Any:
        """Patch what is at a path of the API."""
        return self._ask("PATCH", path, json=body)

    def unpause(self, dag_id: str) -> None:
        """Let a DAG's runs start, once the DAG processor has read it."""
        self._wait_for_dag(dag_id)
        self.patch(f"dags/{dag_id}", is_paused=False)

    def backfill(self, dag_id: str, first: str, last: str, *options: str) -> None:
        """Create a backfill of the days ``first`` to ``last``, once earlier ones are over.

        A DAG has one backfill at a time, and the scheduler looks only every 30 s which are over.
        """
        self._wait_for_dag(dag_id)

        def over() -> bool:
            earlier = self.get("backfills", dag_id=dag_id)["backfills"]
            return all(backfill["completed_at"] for backfill in earlier)

        self.wait(over, for_=f"earlier backfills of {dag_id} to be over", timeout=120)
        days = ("--from-date", first, "--to-date", last)
        self.run("backfill", "create", "--dag-id", dag_id, *days, *options)

    def runs(self, dag_id: str) -> dict[str, dict[str, Any]]:
        """Return the runs of a DAG by id, oldest first."""
        found = self.get(f"dags/{dag_id}/dagRuns", order_by="run_after", limit=100)["dag_runs"]
        return {run["dag_run_id"]: run for run in found}

    def states(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        """Return the state of each task of a run."""
        tasks = self.get(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return {task["task_id"]: task["state"] for task in tasks}

    def wait_for_runs(self, dag_id: str, *, count: int, timeout: float = 300) -> dict[str, str]:
        """Wait until ``count`` runs of a DAG have ended; return the state of each by its id."""

        def ended() -> dict[str, str] | None:
            states = {name: run["state"] for name, run in self.runs(dag_id).items()}
            return states if sum(s in _ENDED for s in states.values()) >= count else None

        return self.wait(ended, for_=f"{count} runs of {dag_id} to end", timeout=timeout)

    def wait(self, look: Callable[[], T | None], *, for_: str, timeout: float) -> T:
        """Look until there is something, and return it."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if found := look():
                return found
            time.sleep(1)
        raise AssertionError(f"waited {timeout:.0f} s for {for_}\n{self._what_is_known()}")

    def _what_is_known(self) -> str:
        """Return what tasks have come to, and the end of the log but for our own requests."""
        found = []
        try:
            for dag in self.get("dags", limit=100)["dags"]:
                for run_id, run in self.runs(dag["dag_id"]).items():
                    states = self.states(dag["dag_id"], run_id)
                    found.append(f"{dag['dag_id']} {run_id} {run['state']}: {states}")
        except (requests.RequestException, AssertionError) as exc:
            found.append(f"the API does not say what tasks have come to: {exc}")
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join([*found, *[line for line in lines if "[http.access]" not in line][-200:]])

    def _wait_for_dag(self, dag_id: str) -> None:
        def known() -> bool:
            return any(dag["dag_id"] == dag_id for dag in self.get("dags", limit=100)["dags"])

        self.wait(known, for_=f"DAG {dag_id}", timeout=120)

    def _ask(self, method: str, path: str, **content: Any) -> Any:
        answer = requests.request(method, f"{self.url}/api/v2/{path}", timeout=60, **content)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None


def settings(home: Path, **changes: str) -> dict[str, str]:
    """Return the environment of an Airflow in ``home``: this repository's DAGs, SQLite.

    Args:
        home: Its AIRFLOW_HOME.
        changes: Environment variables to set besides.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "PYTEST_"))}
    return {
        **kept,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        # Several processes write one file; on a busy machine SQLite's 5 s are too few for that.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=60",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        # A task whose worker waits longer than this for the API is lost.
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
        "DO_NOT_TRACK": "true",
        "OMP_NUM_THREADS": "1",
        **changes,
    }


@contextmanager
def airflow_standalone(home: Path, *, timeout: float = 300, **changes: str) -> Iterator[Airflow]:
    """Start ``airflow standalone`` in ``home``, give it once it is healthy, and stop all of it.

    Args:
        home: Its AIRFLOW_HOME; a database that is there is used again.
        timeout: How long it may take to become healthy.
        changes: Environment variables, such as ``PERSCEN_DEPLOYMENT`` or
            ``AIRFLOW__DATABASE__SQL_ALCHEMY_CONN``.
    """
    home.mkdir(parents=True, exist_ok=True)
    api, worker_logs, trigger_logs = _free_ports(3)
    url = f"http://127.0.0.1:{api}"
    environment = settings(
        home,
        AIRFLOW__API__HOST="127.0.0.1",
        AIRFLOW__API__PORT=str(api),
        AIRFLOW__API__BASE_URL=url,
        AIRFLOW__API__WORKERS="1",
        AIRFLOW__CORE__EXECUTION_API_SERVER_URL=f"{url}/execution/",
        AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT=str(worker_logs),
        AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT=str(trigger_logs),
        **changes,
    )
    log = home / "standalone.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [BIN / "airflow", "standalone"],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        airflow = Airflow(url, environment, log)
        try:
            airflow.wait(
                lambda: _healthy(airflow, process), for_="a healthy Airflow", timeout=timeout
            )
            yield airflow
        finally:
            _stop(process)


def _healthy(airflow: Airflow, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, airflow.log.read_text(errors="replace")[-4000:]
    try:
        parts = airflow.get("monitor/health")
    except (requests.RequestException, AssertionError):
        return False
    return all(part["status"] == "healthy" for part in parts.values())


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop Airflow, and whatever it leaves: tasks are in process groups of their own."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGINT)  # SIGTERM would leave its components behind
    _, alive = psutil.wait_procs([*family, psutil.Process(process.pid)], timeout=_STOP_S)
    for left in alive:
        left.kill()
    psutil.wait_procs(alive, timeout=_STOP_S)
    process.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
