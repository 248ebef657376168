"""Two attempts with one output never work at the same time, and a dead one holds nobody up."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from components.lock import alone
from perscen.errors import ConfigError, ServiceUnavailable, StorageFull
from tests.conftest import ROOT

HOLD = """
import sys, time
from pathlib import Path
from components.lock import alone
with alone(Path(sys.argv[1]), what="model", run_id="first"):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held(place: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold the lock of a place."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_attempt_waits_a_while_and_then_says_who_holds_it_up(tmp_path):
    with held(tmp_path / "model") as first:
        waited = time.monotonic()
        with (
            pytest.raises(ServiceUnavailable) as told,
            alone(tmp_path / "model", what="s3://b/model", run_id="second", wait_s=0.3),
        ):
            pass
        assert time.monotonic() - waited >= 0.3
    assert told.value.message.startswith("another attempt is still making s3://b/model: process ")
    assert f"process {first.pid} on {os.uname().nodename}, run first" in told.value.message
    assert "tried again later" in told.value.hint


def test_a_person_does_not_wait_and_is_told_what_to_do(tmp_path):
    with (
        held(tmp_path / "tune.db"),
        pytest.raises(ServiceUnavailable) as told,
        alone(tmp_path / "tune.db", what="tune.db", wait_s=0, hint="give --study another file"),
    ):
        pass
    assert told.value.hint == "give --study another file"


def test_whoever_has_no_run_signs_with_its_process(tmp_path):
    with alone(tmp_path / "tune.db", what="tune.db"):
        signed = (tmp_path / ".lock-tune.db").read_text()
    assert signed == f"process {os.getpid()} on {os.uname().nodename}"


def test_a_killed_attempt_holds_nobody_up(tmp_path):
    with held(tmp_path / "model") as first:
        first.kill()
        first.wait()
        with alone(tmp_path / "model", what="model", run_id="second", wait_s=0):
            assert (tmp_path / ".lock-model").read_text().endswith("run second")
    assert (tmp_path / ".lock-model").read_text() == ""


def test_outputs_beside_each_other_are_made_at_once(tmp_path):
    with held(tmp_path / "model"), alone(tmp_path / "scores", what="scores", run_id="r"):
        pass


@pytest.mark.parametrize(
    ("code", "error", "match"),
    [
        (errno.ENOSYS, ConfigError, "has no locks"),
        (errno.EOPNOTSUPP, ConfigError, "has no locks"),
        (errno.ENOLCK, ServiceUnavailable, "gives no lock"),
        (errno.EIO, ServiceUnavailable, "gives no lock"),
    ],
)
def test_a_file_system_that_gives_no_lock_says_so(tmp_path, monkeypatch, code, error, match):
    def flock(file: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(error, match=match), alone(tmp_path / "model", what="model", run_id="r"):
        pass


@pytest.mark.parametrize(
    ("code", "error", "match"),
    [
        (errno.EROFS, ConfigError, "cannot be written: Read-only file system"),
        (errno.EACCES, ConfigError, "cannot be written: Permission denied"),
        (errno.ENOSPC, StorageFull, "the disk filled up"),
    ],
)
def test_a_directory_that_takes_no_lock_file_says_so(tmp_path, monkeypatch, code, error, match):
    def mkdir(self: Path, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(error, match=match), alone(tmp_path / "model", what="model", run_id="r"):
        pass
