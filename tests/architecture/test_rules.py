"""The rules of the house that a program can hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from components.exit_codes import EXIT_CODES, exit_code
from components.fates import Fate, fate
from perscen import errors
from tests.conftest import ROOT

ROOMS = ("perscen", "components", "data_contracts")
SOURCES = sorted(
    p for room in (*ROOMS, "tests", "bench", "dags") for p in (ROOT / room).rglob("*.py")
)


def leaves(kind: type[errors.PerscenError]) -> set[type[errors.PerscenError]]:
    below = kind.__subclasses__()
    return {leaf for sub in below for leaf in leaves(sub)} if below else {kind}


def test_every_error_has_an_exit_code():
    assert set(EXIT_CODES) == leaves(errors.PerscenError)


def test_exit_codes_are_what_the_documentation_promises():
    codes = {kind.__name__: code for kind, code in EXIT_CODES.items()}
    assert codes == {
        "ConfigError": 78,
        "ContractBreach": 65,
        "ArtifactError": 66,
        "TrainingDiverged": 70,
        "ReleaseRefused": 10,
        "StorageFull": 74,
        "Preempted": 75,
        "ServiceUnavailable": 75,
    }
    assert exit_code(KeyboardInterrupt()) == 130
    assert exit_code(ZeroDivisionError()) == 1


@pytest.mark.parametrize(
    ("code", "becomes"),
    [(0, Fate.DONE), (10, Fate.REFUSED), (75, Fate.RETRY), (137, Fate.RETRY), (143, Fate.RETRY)]
    + [(-9, Fate.RETRY), (-15, Fate.RETRY), (-11, Fate.FAILED), (139, Fate.FAILED)]
    + [(code, Fate.FAILED) for code in (1, 2, 65, 66, 70, 74, 78, 130)],
)
def test_an_exit_code_has_one_fate(code: int, becomes: Fate):
    assert fate(code) is becomes


def test_no_file_is_too_long_to_hold_in_mind():
    assert [str(p) for p in SOURCES if len(p.read_text().splitlines()) > 400] == []


def test_no_pickle_and_no_clock_in_the_library():
    banned = ("import pickle", "datetime.now", "date.today", "time.time(")
    found = [
        (path.relative_to(ROOT).as_posix(), word)
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        for word in banned
        if word in path.read_text()
    ]
    assert found == [("components/runner.py", "datetime.now")]  # run.json alone says when


@pytest.mark.medium
def test_reading_the_graph_is_cheap():
    code = (
        "import sys, components.pipeline, components.render\n"
        "heavy = {'torch', 'faiss', 'pandas', 'mlflow', 'numpy', 'great_expectations'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.medium
def test_layers_hold():
    linter = Path(sys.executable).with_name("lint-imports")  # .venv may not be activated
    result = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
