"""The program in this process, and one step to call it with."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from unittest import mock

import pytest

from components import cli
from components.pipeline import PIPELINE

GATE = PIPELINE["gate"].argv(
    config="params.yaml",
    logical_date="2022-05-05",
    places={name: f"at/{name}" for name in (*PIPELINE["gate"].inputs, "verdict")},
)[3:]


@pytest.fixture
def perscen(monkeypatch, tmp_path, capsys) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Run the program in this process; return its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*argv: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main(list(argv))
        return left.value.code, *capsys.readouterr()

    with mock.patch.dict(os.environ):
        yield run
    for number, handler in before.items():
        signal.signal(number, handler)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
