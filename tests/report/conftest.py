"""Pages made by the report step itself, from whole runs on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from components.runner import run_step
from tests.report.artifacts import write_run
from tests.report.run import DAY, Run

PARAMS = f"""
run: {{logical_date: {DAY}}}
split: {{train_days: 7, valid_days: 2, test_days: 2}}
model: {{family: perscen}}
"""


@pytest.fixture(scope="session")
def make_page(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Run], Path]:
    """Return what writes a run, runs the report step on it and returns the page's path."""

    def make(run: Run) -> Path:
        root = tmp_path_factory.mktemp("run")
        (root / "params.yaml").write_text(PARAMS, encoding="utf-8")
        manifest = run_step(
            "report",
            config=root / "params.yaml",
            logical_date=DAY,
            inputs=write_run(root, run),
            output=root / "report",
        )
        return root / "report" / manifest.page

    return make


@pytest.fixture(scope="session")
def page(make_page: Callable[[Run], Path]) -> Path:
    """The page of a run with a champion, a known truth and a codebook."""
    return make_page(Run())
