"""An Airflow worker in a process of its own, and a cluster for each test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.kubernetes.fake_api import Running, running_cluster
from tests.kubernetes.worker import MARK


class Worker:
    """The process, and what it is asked."""

    def __init__(self, home: Path) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "PYTEST_"))}
        folder = home / "dags"
        folder.mkdir(parents=True, exist_ok=True)
        self._log = home / "worker.log"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.kubernetes.worker"],
            cwd=ROOT,
            env={
                **kept,
                "AIRFLOW_HOME": str(home),
                "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
                "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
                "KUBECONFIG": str(home / "kubeconfig"),
                "PYTHONPATH": str(ROOT),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: list[str] = []
        self.said = ""
        """What Airflow wrote before the last answer: the tasks' logs."""
        self.answer()

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Ask for something and return the answer."""
        self.begin(do, **request)
        return self.answer()

    def begin(self, do: str, **request: Any) -> None:
        """Ask for something, for `answer` to be waited for."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Return the next answer."""
        found: dict[str, Any] = json.loads(self._read_until(MARK).split(MARK, 1)[1])
        self.said, self._lines = "".join(self._lines), []
        return found

    def says(self, text: str) -> None:
        """Return once Airflow has written a line with this text, before the answer."""
        line = self._read_until(text, MARK)
        assert text in line, f"it answered without saying {text!r}:\n{''.join(self._lines)}{line}"
        self._lines.append(line)

    def _read_until(self, *texts: str) -> str:
        assert self._process.stdout is not None
        with self._log.open("a") as log:
            for line in self._process.stdout:
                log.write(line)
                if any(text in line for text in texts):
                    return line
                self._lines.append(line)
        raise AssertionError("the worker died:\n" + "".join(self._lines)[-6000:])

    def signal(self, number: int) -> None:
        """Send the process a signal."""
        self._process.send_signal(number)

    def interrupt(self) -> dict[str, Any]:
        """Interrupt what it does and return the answer."""
        self.signal(signal.SIGINT)
        return self.answer()

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="session")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("airflow")


@pytest.fixture(scope="session")
def worker(airflow_home: Path) -> Iterator[Worker]:
    """An Airflow worker, with a database of its own."""
    worker = Worker(airflow_home)
    yield worker
    worker.stop()


@pytest.fixture
def kubernetes(airflow_home: Path) -> Iterator[Running]:
    """A cluster; the worker's kubeconfig is its own."""
    with running_cluster(airflow_home) as running:
        yield running
