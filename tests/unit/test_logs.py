"""Machines get one JSON object per line, people a line they can read."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path

import pytest

from components import logs


@pytest.fixture
def configured(capsys):
    """Configure the log as the program does and put everything back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def configure(style: logs.Format) -> logging.Logger:
        logs.configure(run_id="r1", step="gate", style=style)
        return logging.getLogger("perscen.somewhere")

    with warnings.catch_warnings():
        yield configure
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def test_a_json_line_says_when_who_what_and_of_which_run(configured, capsys):
    configured("json").info("epoch finished", extra={"epoch": 3, "loss": 0.5, "where": Path("a")})
    line = json.loads(capsys.readouterr().err)
    assert line.pop("time").startswith("20")
    assert line == {
        "level": "info",
        "logger": "perscen.somewhere",
        "event": "epoch finished",
        "run_id": "r1",
        "step": "gate",
        "epoch": 3,
        "loss": 0.5,
        "where": "a",
    }


def test_a_line_stays_one_line_whatever_it_says(configured, capsys):
    logger = configured("json")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logger.exception("it\nbroke")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["traceback"].endswith("ValueError: two\nlines")


def test_a_warning_of_a_library_is_a_line_too(configured, capsys):
    warnings.simplefilter("default")  # as in a program that is no test
    configured("json")
    warnings.warn("beware", UserWarning, stacklevel=1)
    warnings.warn("old", DeprecationWarning, stacklevel=1)
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["level"], "beware" in line["event"]) == ("warning", True)


def test_chatty_libraries_are_heard_from_warnings_on(configured, capsys):
    configured("json")
    logging.getLogger("great_expectations.core").info("hello")
    logging.getLogger("mlflow.tracking").info("hello")
    logging.getLogger("mlflow.tracking").warning("trouble")
    assert capsys.readouterr().err.count("\n") == 1


def test_people_read_values_rounded_and_levels_that_matter(configured, capsys):
    logger = configured("text")
    logger.info("epoch finished", extra={"epoch": 3, "loss": 0.123456})
    logger.warning("slow")
    assert capsys.readouterr().err == ("  epoch finished  epoch=3  loss=0.1235\n  warning: slow\n")


@pytest.mark.parametrize(("terminal", "reads"), [(True, "  hello\n"), (False, "{")])
def test_a_terminal_means_a_person(configured, capsys, monkeypatch, terminal, reads):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    configured("auto").info("hello")
    assert capsys.readouterr().err.startswith(reads)
