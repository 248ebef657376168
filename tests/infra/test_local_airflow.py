"""`infra/airflow/local.sh`: a whole Airflow by one command, and gone again by Ctrl-C."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import psycopg2
import pytest
import requests
import yaml

from components.pipeline import PIPELINE
from tests.airflow.server import Airflow
from tests.airflow.stand_in import diary, land, stand_in
from tests.infra.files import INFRA

SCRIPT = INFRA / "airflow" / "local.sh"
PORTS = ("AIRFLOW_PORT", "MLFLOW_PORT", "RUNS_PORT", "POSTGRES_PORT")
# Airflow reads no file that does not name it.
DAGS = """\
# An Airflow DAG
from dags._deployment import read_deployment
from dags.perscen_daily import build

dag = build(read_deployment())
for task in dag.tasks:
    task.home = {home!r}
"""


@pytest.fixture
def folder():
    """A folder that PostgreSQL's user can reach too, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="perscen-local-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def environment(folder: Path, **changes: object) -> dict[str, str]:
    with ExitStack() as stack:
        sockets = {name: stack.enter_context(socket.socket()) for name in PORTS}
        for one in sockets.values():
            one.bind(("127.0.0.1", 0))
        ports = {name: one.getsockname()[1] for name, one in sockets.items()}
    ours = ("AIRFLOW", "MLFLOW", "PERSCEN")
    kept = {n: v for n, v in os.environ.items() if not n.startswith(ours)}
    told = {"AIRFLOW_HOME": folder / "airflow", "OMP_NUM_THREADS": 1, **ports, **changes}
    return kept | {name: str(value) for name, value in told.items()}


def test_a_port_in_use_is_said_before_anything_starts(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [SCRIPT],
            env=environment(folder, AIRFLOW_PORT=port),
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr == f"airflow: port {port} is in use; choose another with AIRFLOW_PORT=PORT\n"


def test_a_database_it_does_not_know_is_said_with_those_it_does(folder):
    done = subprocess.run(
        [SCRIPT],
        env=environment(folder, AIRFLOW_DB="oracle"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "AIRFLOW_DB is 'oracle', expected sqlite or postgres" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_scheduled_day_runs_on_postgresql_and_ctrl_c_leaves_nothing(folder):
    home, raw_log = stand_in(folder / "home"), folder / "raw"
    now = datetime.now(UTC)
    land(raw_log, *(f"{now - timedelta(days=back):%Y-%m-%d}" for back in range(3)))
    (folder / "dags").mkdir()
    (folder / "dags" / "daily.py").write_text(DAGS.format(home=str(home)))
    deployment = {"run_root": str(folder / "runs"), "raw_log": str(raw_log), "retries": 0}
    deployment["environment"] = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    (folder / "deployment.yaml").write_text(yaml.safe_dump(deployment))
    told = environment(
        folder,
        AIRFLOW_DB="postgres",
        AIRFLOW_START_TIMEOUT=600,
        AIRFLOW__CORE__DAGS_FOLDER=folder / "dags",
        PERSCEN_DEPLOYMENT=folder / "deployment.yaml",
    )
    url = f"http://127.0.0.1:{told['AIRFLOW_PORT']}"
    airflow = Airflow(url, told, folder / "out")
    with (folder / "out").open("w") as out:
        script = subprocess.Popen(
            [SCRIPT], env=told, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        airflow.wait(lambda: said(script, folder, "Ctrl-C stops"), for_="its greeting", timeout=700)
        family = psutil.Process(script.pid).children(recursive=True)
        airflow.unpause("perscen_daily")
        runs = airflow.wait_for_runs("perscen_daily", count=1, timeout=400)
        run_id = min(runs)  # the first one: a test that runs over midnight has another

        states = airflow.states("perscen_daily", run_id)
        steps = ("landed", *(step.name for step in PIPELINE.steps))
        assert states == dict.fromkeys(steps, "success"), task_logs(folder / "airflow")
        assert len(diary(home)) >= 2 * len(PIPELINE.steps)
        assert run_id in stored_runs(folder / "airflow", int(told["POSTGRES_PORT"]))
        greeting = (folder / "out").read_text()
        addresses = re.findall(r"^(?:Airflow|MLflow|Runs) +(\S+)", greeting, re.MULTILINE)
        assert len(addresses) == 3
        for address in addresses:
            assert requests.get(address, timeout=60).ok, address
        assert {listening.ip for p in family for listening in heard(p)} == {"127.0.0.1"}
    finally:
        # What a terminal does with Ctrl-C.
        os.killpg(script.pid, signal.SIGINT)
        code = script.wait(timeout=120)
    assert code == 130
    deadline = time.monotonic() + 30
    while any(p.is_running() for p in family) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert [p for p in family if p.is_running()] == []
    with pytest.raises(psycopg2.OperationalError, match="refused"):
        stored_runs(folder / "airflow", int(told["POSTGRES_PORT"]))


def said(script: subprocess.Popen[bytes], folder: Path, words: str) -> bool:
    text = (folder / "out").read_text()
    assert script.poll() is None, text
    return words in text


def task_logs(airflow_home: Path) -> str:
    return "\n".join(
        path.read_text()[-2000:] for path in airflow_home.glob("logs/dag_id=*/**/*.log")
    )


def heard(process: psutil.Process) -> list[psutil._common.addr]:
    try:
        found = process.net_connections("tcp")
    except psutil.NoSuchProcess:
        return []
    return [connection.laddr for connection in found if connection.status == psutil.CONN_LISTEN]


def stored_runs(airflow_home: Path, port: int) -> list[str]:
    password = (airflow_home / "postgres.password").read_text().strip()
    address = {"host": "127.0.0.1", "port": port, "user": "airflow", "dbname": "postgres"}
    with closing(psycopg2.connect(**address, password=password)) as database:
        cursor = database.cursor()
        cursor.execute("select run_id from dag_run")
        return [run_id for (run_id,) in cursor.fetchall()]
