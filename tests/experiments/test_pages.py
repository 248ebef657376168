"""Pages and files are made of finished runs alone, and say how many there are."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from components.comparison.files import write_files
from components.comparison.results import Results, collect
from components.marks import put_between_marks
from perscen.config import EvaluateConfig
from perscen.errors import ArtifactError, StorageFull
from perscen.experiments.rows import ROWS, TABLES, Block, Row, Table
from perscen.experiments.runs import Run, RunFacts, Work, runs_of, seconds_left
from perscen.experiments.settings import changed, settings_of
from perscen.training.records import EpochRecord
from tests.faults import full_disk

pytestmark = pytest.mark.medium  # each is quick, all together are not

EVALUATE = EvaluateConfig(ks=(5, 10))
USERS = {"1": 200, "<b>": 60}
LEVELS = {"dssm_m": 0.30, "m5": 0.20, "perscen": 0.35, "random": 0.05}
TABLE = Table(
    "main",
    "All models",
    (Block("paper", ("dssm_m", "m5", "perscen"), subject="perscen"), Block("none", ("random",))),
)


CURVE = (0.10, 0.20, 0.25, 0.22)
"""Macro recall of the validation window, by epoch."""


def epoch(number: int, recall: float) -> EpochRecord:
    return EpochRecord(
        epoch=number,
        steps=10 * number,
        loss=1.0,
        task_loss=1.0,
        auxiliary_loss=0.0,
        recall={"1": recall, "<b>": recall},
        macro_recall=recall,
        code_usage={},
        code_perplexity={},
    )


def scores(level: float, seed: int, *, users: dict[str, int] = USERS) -> pl.DataFrame:
    noise = np.random.default_rng(7)  # users are alike in all runs
    frames = [
        pl.DataFrame(
            {
                "scenario": [scenario] * num,
                "user_id": [f"u{n}" for n in range(num)],
                "num_relevant": [1] * num,
                **{
                    metric: np.clip(level + seed / 100 + noise.normal(0, 0.02, num), 0, 1)
                    for metric in ("recall_5", "hits_5", "recall_10", "hits_10")
                },
            }
        )
        for scenario, num in users.items()
    ]
    return pl.concat(frames)


def rows_with_settings(names=LEVELS):
    return [(ROWS[name], settings_of(ROWS[name], evaluate=EVALUATE)) for name in names]


def fill(work: Work, *, seeds: int, leave_out: tuple[str, int] | None = None) -> list:
    runs = runs_of(rows_with_settings(), seeds=seeds)
    for run in runs:
        if (run.row.name, run.seed) != leave_out:
            trained = {
                "best_epoch": 3,
                "train_cpu_s": 60.0,
                "num_parameters": 1234,
                "epochs": tuple(epoch(number, recall) for number, recall in enumerate(CURVE, 1)),
            }
            facts = RunFacts(
                row=run.row.name,
                seed=run.seed,
                settings=run.settings.tree(),
                splits_digest=work.splits_digest,
                **(trained if run.row.family else {}),
            )
            work.keep(run, scores(LEVELS[run.row.name], run.seed), facts)
    return runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder with the files of a table that has all its runs, three seeds each."""
    folder = tmp_path_factory.mktemp("whole")
    work = Work(folder / "work", splits_digest="d" * 64)
    write_files(results_of(work, fill(work, seeds=3)), folder / "out", name="main")
    return folder / "out"


@pytest.fixture
def work(tmp_path) -> Work:
    return Work(tmp_path / "work", splits_digest="d" * 64)


def results_of(work: Work, runs) -> Results:
    return collect(TABLE, [ROWS[name] for name in LEVELS], runs, work)


def cells_in(page: str, title: str, table: str) -> list[str]:
    """The cells of a row of the table below a heading."""
    below = page[page.index(table) :]
    line = next(line for line in below.splitlines() if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_the_page_has_the_layout_of_the_paper_with_best_second_best_and_what_is_sure(whole):
    page = (whole / "main.md").read_text()
    head = next(line for line in page.splitlines() if line.startswith("| model | n |"))
    assert "| 1 (200 users) R@5 | 1 (200 users) R@10 | &lt;b&gt; (60 users) R@5 |" in head
    assert head.endswith("| macro R@5 | macro R@10 |")
    n, first, *_ = cells_in(page, "PERSCEN", "**Recall@K, percent**")
    assert n == "3"
    assert re.fullmatch(r"\*\*3[56]\.\d\d ± 1\.00\*\* ▲", first)
    second = cells_in(page, "DSSM-M", "**Recall@K")[1]
    assert re.fullmatch(r"<ins>(29|30|31)\.\d\d ± 1\.00</ins>", second)
    assert re.fullmatch(r"2[01]\.\d\d ± 1\.00", cells_in(page, "M5", "**Recall@K")[1])
    assert cells_in(page, "PERSCEN", "**Hits@K, percent**")[0] == "3"
    told = cells_in(page, "`dssm_m`", "**`perscen` minus …, Recall@5, percentage points**")
    assert re.fullmatch(r"\+5\.00 \[\+1\.\d\d, \+8\.\d\d\] p = 0\.0[23]\d", told[0])
    assert told[-1] == "1.16"  # ratio of macros
    assert "random" in page[page.index("minus …") :]
    assert "Not whole" not in page
    assert "| perscen | 3 | 3, 3, 3 | 25.00, 25.00, 25.00 | 1,234 | 60 |" in page
    assert "| best epochs | their macro Recall@100 in validation, percent | parameters |" in page
    assert "revisions of the code" not in page


def test_rows_that_were_validated_at_several_ks_are_told_with_their_own(work, tmp_path):
    runs = fill(work, seeds=1)
    rows = [
        changed(ROWS[n], recipe=None, changes={"train.monitor_k": 5}) if n == "m5" else ROWS[n]
        for n in LEVELS
    ]
    (before,) = [run for run in runs if run.row.name == "m5"]
    (m5,) = [row for row in rows if row.name == "m5"]
    after = Run(m5, settings_of(m5, evaluate=EVALUATE), 0)
    facts = work.facts(before).model_copy(update={"settings": after.settings.tree()})
    work.keep(after, work.scores(before), facts)
    runs = [after if run is before else run for run in runs]
    write_files(collect(TABLE, rows, runs, work), tmp_path, name="main")
    page = (tmp_path / "main.md").read_text()
    assert "| their macro recall in validation, percent |" in page
    assert "| m5 | 1 | 3 | 25.00 (Recall@5) |" in page
    assert "| perscen | 1 | 3 | 25.00 (Recall@100) |" in page


def test_a_page_of_runs_of_several_revisions_of_the_code_says_so(work, tmp_path):
    runs = fill(work, seeds=2)
    for run, revision in zip(runs[:3], ("a" * 40, "b" * 40, "a" * 40), strict=True):
        facts = work.facts(run).model_copy(update={"revision": revision})
        work.keep(run, work.scores(run), facts)
    write_files(results_of(work, runs), tmp_path, name="main")
    page = (tmp_path / "main.md").read_text()
    assert "\nRuns of 2 revisions of the code: aaaaaaa, bbbbbbb.\n" in page


def test_a_table_that_is_not_whole_says_how_many_runs_each_row_has(work, tmp_path):
    runs = fill(work, seeds=2, leave_out=("m5", 1))
    write_files(results_of(work, runs), tmp_path, name="main")
    page = (tmp_path / "main.md").read_text()
    assert "**Not whole yet**, runs so far: m5 1 of 2." in page
    n, first, *_ = cells_in(page, "M5", "**Recall@K")
    assert n == "1"
    assert re.fullmatch(r"(<ins>|\*\*)?\d+\.\d\d(</ins>|\*\*)?", first)  # one run has no deviation


def test_one_training_of_a_row_is_not_called_above_or_below_and_the_page_says_why(work, tmp_path):
    runs = fill(work, seeds=1)
    write_files(results_of(work, runs), tmp_path, name="main")
    page = (tmp_path / "main.md").read_text()
    assert "Where n is 1 they hold the chance of users alone" in page
    assert "▲" not in " ".join(cells_in(page, "PERSCEN", "**Recall@K"))


def test_the_numbers_of_every_seed_are_in_the_csv(whole):
    cells = pl.read_csv(whole / "main.csv")
    mine = cells.filter(row="dssm_m", metric="recall_5", scenario="macro").row(0, named=True)
    values = [mine[f"seed_{seed}"] for seed in range(3)]
    assert mine["num_seeds"] == 3
    assert mine["mean"] == pytest.approx(np.mean(values), abs=1e-6)
    assert mine["sd"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    expected = scores(0.30, 1).group_by("scenario").agg(pl.col("recall_5").mean())
    assert values[1] == pytest.approx(expected["recall_5"].mean(), abs=1e-6)
    differences = pl.read_csv(whole / "main-differences.csv")
    assert set(differences["other"]) == {"dssm_m", "m5", "random"}
    runs = pl.read_csv(whole / "main-runs.csv")
    assert len(runs) == 3 * 4
    assert runs.filter(row="m5")["validation_recall"].to_list() == [0.25] * 3
    assert runs.filter(row="random")["validation_recall"].null_count() == 3


def test_the_html_page_needs_no_other_file_and_runs_nothing(whole):
    page = (whole / "main.html").read_text()
    assert page.count("<svg ") == 3  # two scenarios, and the mean over them
    assert "<td" in page
    assert "&lt;b&gt; (60 users)" in page
    assert not re.search(r'<script|<img|src=|href="(?!#)|@import|url\((?!#)', page)


def test_figures_are_documents_of_their_own_in_plain_colours(whole):
    for path in whole.glob("main-*.svg"):
        text = path.read_text()
        assert text.startswith("<svg xmlns=")
        assert "var(" not in text
    assert {path.name for path in whole.glob("*.svg")} == {
        "main-scenario-1.svg",
        "main-scenario-2.svg",
        "main-macro.svg",
    }


def test_words_around_the_marks_stay_and_a_page_without_marks_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Before\n<!-- made by x -->\nold\n<!-- end of x -->\nAfter\n")
    put_between_marks(page, "new\n", made_by="x")
    assert page.read_text() == "# Before\n<!-- made by x -->\nnew\n<!-- end of x -->\nAfter\n"
    page.write_text("no marks\n")
    with pytest.raises(ArtifactError, match="no place for the text"):
        put_between_marks(page, "new\n", made_by="x")
    assert page.read_text() == "no marks\n"


def test_a_page_that_is_refused_leaves_no_other_file(work, tmp_path):
    runs = fill(work, seeds=1)
    (tmp_path / "out").mkdir()
    page = tmp_path / "out/main.md"
    page.write_text("no marks\n")
    with pytest.raises(ArtifactError, match="no place for the text"):
        write_files(results_of(work, runs), tmp_path / "out", name="main")
    assert list((tmp_path / "out").iterdir()) == [page]


def test_a_full_disk_leaves_no_file_half_written(work, tmp_path):
    results = results_of(work, fill(work, seeds=1))
    with full_disk(), pytest.raises(StorageFull, match="the disk filled up while writing"):
        write_files(results, tmp_path / "out", name="main")
    for path in (tmp_path / "out").iterdir():
        assert path.name == "main.md" or path.suffix == ".csv", path
        assert path.read_text().endswith("\n")


def test_a_full_disk_leaves_a_page_as_it_was(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Words of ours\n<!-- made by x -->\n<!-- end of x -->\n")
    before = page.read_text()
    with full_disk(), pytest.raises(StorageFull, match=r"the disk filled up while writing .*page"):
        put_between_marks(page, "new\n" * 2_000, made_by="x")
    assert page.read_text() == before
    assert list(tmp_path.iterdir()) == [page]


def test_ablations_are_told_as_changes_against_the_whole_model(tmp_path):
    work = Work(tmp_path, splits_digest="d" * 64)
    names = {"no_vq": 0.25, "perscen": 0.30}
    runs = runs_of(rows_with_settings(names), seeds=1)
    for run in runs:
        facts = RunFacts(
            row=run.row.name, seed=0, settings=run.settings.tree(), splits_digest="d" * 64
        )
        work.keep(run, scores(names[run.row.name], 0), facts)
    table = TABLES["ablations"].only(names)
    results = collect(table, [ROWS[name] for name in names], runs, work)
    write_files(results, tmp_path / "out", name="ablations")
    page = (tmp_path / "out/ablations.md").read_text()
    told = cells_in(page, "`no_vq` − `perscen`", "Change against the row named after it, Recall@5")
    assert told[0].startswith("-5.00 [")
    assert told[-1] == "0.83"


def test_a_sweep_is_drawn_over_its_values(tmp_path):
    work = Work(tmp_path, splits_digest="d" * 64)
    names = ["layers_1", "perscen", "layers_4"]
    runs = runs_of(rows_with_settings(names), seeds=2)
    for run in runs:
        facts = RunFacts(
            row=run.row.name, seed=run.seed, settings=run.settings.tree(), splits_digest="d" * 64
        )
        work.keep(run, scores(0.3, run.seed), facts)
    table = TABLES["sweeps"].only(names)
    results = collect(table, [ROWS[name] for name in names], runs, work)
    write_files(results, tmp_path / "out", name="sweeps")
    drawn = (tmp_path / "out/sweeps-layers.svg").read_text()
    assert "number of GNN layers 1, 3, 4" in drawn
    assert "number of GNN layers" in (tmp_path / "out/sweeps.md").read_text()


def test_results_of_other_settings_are_not_taken_for_finished(work):
    runs = fill(work, seeds=1)
    run = next(run for run in runs if run.row.name == "dssm_m")
    facts = work.facts(run)
    changed = {**facts.settings, "train": {**facts.settings["train"], "patience": 99}}
    work.keep(run, scores(0.3, 0), facts.model_copy(update={"settings": changed}))
    assert work.facts(run) is None


def test_facts_that_cannot_be_read_are_told_with_what_to_do(work):
    run = fill(work, seeds=1)[0]
    (work.place(run) / "facts.json").write_text("{}")
    with pytest.raises(ArtifactError, match="is not readable") as raised:
        work.facts(run)
    assert "made again" in raised.value.hint


@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
def test_scores_that_cannot_be_read_are_told_with_what_to_do(damage, work):
    run = fill(work, seeds=1)[0]
    path = work.scores_file(run)
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    with pytest.raises(ArtifactError, match="is not readable") as raised:
        work.scores(run)
    assert str(path) in raised.value.message
    assert "made again" in raised.value.hint


def test_runs_go_seed_by_seed_and_what_needs_no_training_first():
    rows = rows_with_settings(["dssm_m", "segment_popularity", "perscen", "random"])
    assert [str(run) for run in runs_of(rows, seeds=2)] == [
        "segment_popularity seed 0",
        "random seed 0",
        "random seed 1",
        "dssm_m seed 0",
        "perscen seed 0",
        "dssm_m seed 1",
        "perscen seed 1",
    ]


def test_the_time_left_follows_from_what_a_rows_runs_have_cost():
    runs = runs_of(rows_with_settings(["dssm_m", "perscen"]), seeds=2)
    known = [
        RunFacts(row=name, seed=0, settings={}, splits_digest="", train_cpu_s=cost)
        for name, cost in (("dssm_m", 100.0), ("m5", 500.0))
    ]
    todo = [run for run in runs if (run.row.name, run.seed) != ("dssm_m", 0)]
    # One dssm_m for 100 s, and two of a row that nothing is known of, for the mean of the others.
    assert seconds_left(todo, known, jobs=2, spent_s=60) == (100 + 2 * 300 - 60) / 2
    assert seconds_left(todo, known, jobs=2, spent_s=60, pace=3) == (3 * 700 - 60) / 2
    assert seconds_left(todo, [], jobs=2, spent_s=60) is None


def test_a_row_is_shown_under_its_title_whatever_is_set(tmp_path):
    work = Work(tmp_path, splits_digest="d" * 64)
    row = Row("perscen", "PERSCEN (a|b <i>)")
    settings = settings_of(row, evaluate=EVALUATE)
    runs = runs_of([(row, settings)], seeds=1)
    facts = RunFacts(row="perscen", seed=0, settings=settings.tree(), splits_digest="d" * 64)
    work.keep(runs[0], scores(0.3, 0), facts)
    results = collect(Table("rows", "x", (Block("", ("perscen",)),)), [row], runs, work)
    write_files(results, tmp_path / "out", name="rows")
    assert r"| PERSCEN (a\|b &lt;i&gt;) | 1 |" in (tmp_path / "out/rows.md").read_text()
    assert "<td>PERSCEN (a|b &lt;i&gt;)</td>" in (tmp_path / "out/rows.html").read_text()
