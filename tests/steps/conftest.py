"""A finished run, made once; what steps are asked beyond it goes to other folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.steps.mini import MiniRun, make_run


def _at_home(patch: pytest.MonkeyPatch, root: Path) -> None:
    """Let MLflow keep everything where the run is, as in a project's folder."""
    patch.chdir(root)
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    patch.setenv("XDG_CACHE_HOME", str(root / "cache"))


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> MiniRun:
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        _at_home(patch, root)
        return make_run(root)


@pytest.fixture
def finished(_finished: MiniRun, monkeypatch: pytest.MonkeyPatch) -> Iterator[MiniRun]:
    """The run, read only: write to other folders than its own."""
    _at_home(monkeypatch, _finished.root)
    return _finished
