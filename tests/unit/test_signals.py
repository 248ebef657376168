"""SIGINT and SIGTERM, wherever they come: told as what they are, with all tidied up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from unittest import mock

import pytest

from components import cli, runner
from components.fates import Fate, fate
from perscen import errors
from tests.unit.conftest import GATE


def test_sigterm_ends_a_step_by_itself_once_all_is_tidied_up(perscen, monkeypatch):
    tidied, ended_by = [], []

    def told_to_stop(*args, **options):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # a second one does not cut the tidying up short
            tidied.append(True)

    monkeypatch.setattr(runner, "run_step", told_to_stop)
    monkeypatch.setattr(signal, "raise_signal", ended_by.append)
    code, _, err = perscen("--log-format", "json", *GATE)
    assert json.loads(err)["event"] == "terminated; nothing half-written was kept"
    assert (tidied, ended_by) == ([True], [signal.SIGTERM])
    assert code == 143, "the first process of a container is not ended by its own signal"
    assert fate(code) is Fate.RETRY


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
@pytest.mark.parametrize("made_of_it", [ImportError, ValueError, errors.ArtifactError])
def test_a_signal_is_told_as_one_whatever_native_code_makes_of_it(
    perscen, monkeypatch, number, code, said, made_of_it
):
    def calls_native_code(*args, **options):
        try:
            os.kill(os.getpid(), number)
            time.sleep(60)
        finally:
            raise made_of_it("initialization failed")

    monkeypatch.setattr(runner, "run_step", calls_native_code)
    monkeypatch.setattr(signal, "raise_signal", mock.Mock())
    ended, _, err = perscen("--log-format", "json", *GATE)
    assert ended == code
    assert json.loads(err)["event"] == f"{said}; nothing half-written was kept"


class _Freed:
    """Gets a signal where Python drops what is raised."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)
        time.sleep(0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_comes_in_a_destructor_is_heard_after_it(perscen, monkeypatch, number, code):
    def frees(*args, **options):
        freed = _Freed(number)
        del freed
        time.sleep(60)

    monkeypatch.setattr(runner, "run_step", frees)
    monkeypatch.setattr(signal, "raise_signal", mock.Mock())
    ended, _, err = perscen("--log-format", "json", *GATE)
    assert ended == code
    assert json.loads(err)["event"].endswith("nothing half-written was kept")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_context_that_was_just_being_entered_is_left_too(perscen, monkeypatch, number, code):
    tidied, told = [], []
    much = (0,) * 5_000_000

    @contextmanager
    def working():
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.001)
            # The signal comes meanwhile. Python looks for signals after calls, not after an
            # operator: the next look is in `__enter__`, which then does not return.
            assert -1 not in much
            yield
        finally:
            tidied.append(True)

    def work(*args, **options):
        stop = signal.getsignal(number)
        signal.signal(signal.SIGALRM, lambda _, frame: stop(number, frame))
        with working():
            pytest.fail("nobody stopped me")

    monkeypatch.setattr(runner, "run_step", work)
    monkeypatch.setattr(signal, "raise_signal", mock.Mock())
    monkeypatch.setattr(cli.logger, "warning", lambda event: told.append((event, *tidied)))
    assert perscen(*GATE)[0] == code
    [(event, *before)] = told
    assert event.endswith("nothing half-written was kept")
    assert before == [True]


def test_other_exceptions_that_python_drops_are_told_as_ever(perscen, monkeypatch):
    class Broken:
        def __init__(self, *args, **options) -> None:
            pass

        def __del__(self) -> None:
            raise ZeroDivisionError

    told = mock.Mock()
    monkeypatch.setattr(sys, "unraisablehook", told)
    monkeypatch.setattr(runner, "run_step", mock.Mock(side_effect=Broken))
    assert perscen(*GATE)[0] == 0
    assert told.call_args.args[0].exc_type is ZeroDivisionError
    assert sys.unraisablehook is told


_IN_POLARS = """
import io, os, signal, sys, time
import click, polars as pl
from polars.io.scan_options.cast_options import ScanCastOptions
from components import cli

default = ScanCastOptions._default

def called_by_rust():
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    return default()

@click.command()
def work():
    file = io.BytesIO()
    pl.DataFrame({"a": [1]}).write_parquet(file)
    file.seek(0)
    ScanCastOptions._default = staticmethod(called_by_rust)
    pl.scan_parquet(file).collect()
    time.sleep(30)
    print("nobody stopped me")

cli.program = work
cli.main([])
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", -signal.SIGTERM), ("SIGINT", 130)])
def test_a_signal_that_comes_in_a_call_from_polars_is_heard_after_it(name, code) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _IN_POLARS, name], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == code
    assert "nothing half-written was kept" in ended.stderr
    assert "panicked" not in ended.stderr
    assert "Traceback" not in ended.stderr
