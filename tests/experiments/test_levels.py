"""Figures of levels name their metric, and stay readable whatever rows and scenarios are called."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from components.comparison.files import write_files
from components.comparison.results import collect
from perscen.experiments.rows import ROWS, Block, Table
from perscen.experiments.runs import RunFacts, Work, runs_of
from perscen.experiments.settings import changed, settings_of
from tests.experiments.test_pages import EVALUATE, scores

pytestmark = pytest.mark.medium  # each is quick, all together are not

CHANGES = {
    "train.optim.lr": 0.001,
    "train.monitor_k": 5,
    "train.self_training.share": 0.5,
    "model.dropout": 0.1,
}


def write_changed(folder: Path, *, scenario: str) -> Path:
    """Write the files of two rows with four changes each, and return where."""
    rows = [changed(ROWS[n], recipe=None, changes=CHANGES) for n in ("perscen", "dssm_m")]
    work = Work(folder / "work", splits_digest="d" * 64)
    runs = runs_of([(row, settings_of(row, evaluate=EVALUATE)) for row in rows], seeds=1)
    for run in runs:
        facts = RunFacts(
            row=run.row.name, seed=0, settings=run.settings.tree(), splits_digest="d" * 64
        )
        work.keep(run, scores(0.3, 0, users={scenario: 60, "2": 60}), facts)
    table = Table("rows", "x", (Block("", ("perscen", "dssm_m"), subject="perscen"),))
    write_files(collect(table, rows, runs, work), folder / "out", name="rows")
    return folder / "out"


def texts(path: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())


def test_long_names_are_shortened_in_drawings_and_whole_in_tables_and_for_a_screen_reader(tmp_path):
    # A drawing without room for its axes is a warning, and so an error here.
    out = write_changed(tmp_path, scenario="s" * 80)
    whole = f"PERSCEN ({', '.join(f'{name}={value}' for name, value in CHANGES.items())})"
    assert f"| {whole} | 1 |" in (out / "rows.md").read_text()
    drawing = out / "rows-scenario-1.svg"
    assert whole in drawing.read_text().partition(">")[0]
    labels = [text for text in texts(drawing) if not text.startswith("Recall@5")]
    assert "PERSCEN" in " ".join(labels)
    assert any(label.endswith("…") for label in labels)
    assert max(map(len, labels)) <= 28
    (title,) = [text for text in texts(drawing) if text.startswith("Recall@5")]
    assert len(title) <= 56


def test_the_title_of_a_figure_names_the_metric_and_the_scenario(tmp_path):
    out = write_changed(tmp_path, scenario="home")
    assert "Recall@5, scenario home" in texts(out / "rows-scenario-1.svg")
    assert "Recall@5, mean over scenarios" in texts(out / "rows-macro.svg")


def test_scenario_names_are_text_in_every_table_and_under_every_figure(tmp_path):
    page = (write_changed(tmp_path, scenario="<i>|a]") / "rows.md").read_text()
    assert r"| row | &lt;i&gt;\|a] | 2 | macro | ratio of macros |" in page
    assert r"![Recall@5 in scenario &lt;i&gt;\|a\], with intervals](rows-scenario-1.svg)" in page
    assert "<i>" not in page
