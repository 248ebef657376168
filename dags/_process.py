"""A step as a process of the Airflow worker: the same argv that a pod runs, on this machine."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from components.fates import Fate, fate
from dags._step_log import pass_on

if TYPE_CHECKING:
    from airflow.sdk import Context

_LIBC: Final = ctypes.CDLL(None)
_PR_SET_PDEATHSIG: Final = 1
_WATCH: Final = Path(__file__).with_name("_watch.py")
_CODED: Final[Mapping[Fate, type[AirflowException]]] = {
    Fate.REFUSED: AirflowSkipException,
    Fate.RETRY: AirflowException,
    Fate.FAILED: AirflowFailException,
}


class StepOperator(BaseOperator):
    """Runs a step's argv and makes of its exit code what ``components.fates`` says.

    Args:
        argv: The command line; ``python`` is the interpreter Airflow runs in.
        home: Directory that relative places start from.
        environment: Places the step sees besides the worker's own environment.
        termination_grace_s: What a step told to stop has for its checkpoint before it is killed.
        operator_arguments: As for any operator.
    """

    template_fields: Sequence[str] = ("argv",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"argv": "json"}
    ui_color = "#e8f1f8"

    _process: subprocess.Popen[str] | None = None
    _watcher: subprocess.Popen[bytes] | None = None
    _told_to_stop = False

    def __init__(
        self,
        *,
        argv: Sequence[str],
        home: Path,
        environment: Mapping[str, str],
        termination_grace_s: float,
        **operator_arguments: Any,
    ) -> None:
        super().__init__(**operator_arguments)
        self.argv = list(argv)
        self.home = str(home)
        self.environment = dict(environment)
        self.termination_grace_s = termination_grace_s

    def execute(self, context: Context) -> dict[str, Any] | None:
        """Run the step to its end and return its Result, or None for one that leaves none."""
        with tempfile.TemporaryDirectory(prefix="perscen-") as scratch:
            result = Path(scratch) / "result.json"
            told = {"PERSCEN_RESULT": str(result), "PERSCEN_RUN_ID": context["run_id"]}
            code, last_error = self._run(self._environment() | told)
            ended = fate(code)
            if ended is not Fate.DONE:
                raise _CODED[ended](f"{self.task_id} {_ending(code)}: {last_error}")
            return json.loads(result.read_bytes()) if result.exists() else None

    def on_kill(self) -> None:
        """Pass SIGTERM on, and have the step ended for good when its grace is over.

        Runs in a signal handler: it must not wait, as the step's last lines are still to be read.
        """
        self._told_to_stop = True
        process, watcher = self._process, self._watcher
        if process is None or watcher is None or process.poll() is not None:
            return
        self.log.warning("telling the step to stop", grace_s=self.termination_grace_s)
        process.terminate()
        assert watcher.stdin is not None
        watcher.stdin.close()

    def _run(self, environment: Mapping[str, str]) -> tuple[int, str]:
        """Return the step's exit code and what it said last of what went wrong."""
        # In a session of its own, out of reach of the SIGKILL that Airflow sends to a task's group
        # five seconds after SIGTERM: a checkpoint may take longer.
        with (
            subprocess.Popen(
                self.argv,
                cwd=self.home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
                # A task's process has one thread.
                preexec_fn=partial(_stop_with_parent, os.getpid()),  # noqa: PLW1509
            ) as process,
            _watching(process, grace_s=self.termination_grace_s) as watcher,
        ):
            self._process, self._watcher = process, watcher
            if self._told_to_stop:
                self.on_kill()
            assert process.stdout is not None
            last_error = ""
            for line in process.stdout:
                last_error = pass_on(line.rstrip("\n"), self.log) or last_error
        return process.returncode, last_error or "it gave no reason; see its last lines above"

    def _environment(self) -> dict[str, str]:
        # Airflow's own settings hold secrets that are none of a step's business.
        kept = {k: v for k, v in os.environ.items() if not k.lstrip("_").startswith("AIRFLOW")}
        # Airflow may have been started by its path, with its environment not activated.
        path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
        return kept | {"PATH": path} | self.environment


def _stop_with_parent(parent: int) -> None:
    """In the new process: take the worker's death, however sudden, as being told to stop.

    Else it would go on unseen, and the next attempt would wait for it to end.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a handler of Python's would end with exec
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # dead already: nobody tells
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _watching(
    process: subprocess.Popen[str], *, grace_s: float
) -> Iterator[subprocess.Popen[bytes]]:
    """Give a process that kills the step's once our end of its input is closed and the grace over.

    Our death closes it too. It has a session of its own, as the step has.
    """
    pidfd = os.pidfd_open(process.pid)
    try:
        watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", _WATCH, str(process.pid), str(pidfd), str(grace_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[pidfd],
            start_new_session=True,
        )
    finally:
        os.close(pidfd)
    with watcher:
        yield watcher


def _ending(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
