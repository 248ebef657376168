"""``perscen compare`` as a command: what it refuses at once, what it leaves out, how it ends."""

from __future__ import annotations

import os
import re
from pathlib import Path

import polars as pl
import pytest

from components.cli import main
from components.store import payload_digest
from perscen.experiments.processes import Failure, Outcome
from perscen.experiments.rows import TABLES
from perscen.experiments.runs import Work
from tests.experiments.small import write_splits
from tests.experiments.test_pages import fill

pytestmark = pytest.mark.medium  # each is quick, all together are not


def run_command(*argv: str, capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(["compare", *argv])
    return left.value.code, *capsys.readouterr()


@pytest.fixture
def quiet(monkeypatch):
    """Keep the program from changing how this process logs and is stopped."""
    monkeypatch.setattr("components.cli.logs.configure", lambda **_: None)
    monkeypatch.setattr("components.cli.signal.signal", lambda *_: None)


@pytest.fixture
def untrained(monkeypatch):
    """Fail when a training would begin."""

    def begin(*_, **__):
        raise AssertionError("it begins to train")

    monkeypatch.setattr("components.comparison.making.make_missing", begin)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--table", "mian"], "no table 'mian'; there are main, ablations, item-tower, sweeps"),
        (["--families", "dssm_mm"], "no row or family 'dssm_mm'; there are youtube_dnn_s, dssm_s"),
        (["--table", "main", "--families", "no_vq"], "no row of table main 'no_vq'"),
        (["--recipe", "best"], "none is named"),
        (["--families", "perscen", "--recipe", "bets"], "no recipe 'bets'; there are best, paper"),
        (["--families", "perscen", "--set", "model.heads=2"], "perscen does not"),
        (["--table", "main", "--families", "perscen", "--set", "model.dropout=0.1"], "as they are"),
        (["--families", "perscen", "dssm_m", "--table-only"], "no finished run"),
        (["--families", "perscen"], "evaluate.ks asks for 100 items"),
        (["--families", "perscen", "--ks", "5"], "row perscen: train.monitor_k is 100, but"),
        (["--families", "random", "--recipe", "best"], "none of random is trained"),
        (["--families", "random", "perscen", "--without", "random"], "no table is named"),
        (["--without", "ease_blnd"], "no row of table main 'ease_blnd'"),
        (
            ["--table", "ablations", "--families", "no_gnn", "--without", "no_gnn"],
            "nothing is left of table ablations",
        ),
    ],
)
def test_the_command_says_what_does_not_exist_before_anything_is_trained(
    argv, says, quiet, tmp_path, capsys, caplog
):
    splits = write_splits(tmp_path / "splits", num_users=20)
    places = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    code, _, _ = run_command(str(splits), *argv, *places, capsys=capsys)
    assert code in (66, 78)
    assert says in caplog.text
    assert not list(Path(tmp_path).glob("work/*/*"))


def test_a_ranker_that_cannot_be_made_here_is_told_before_anything_is_trained(
    quiet, tmp_path, capsys, caplog, monkeypatch
):
    monkeypatch.setattr("perscen.evaluation.ease.MAX_ITEMS", 10)
    splits = write_splits(tmp_path / "splits", num_users=20)
    words = ["--families", "random", "ease_blend", "--ks", "5", "--work", str(tmp_path / "work")]
    code, _, _ = run_command(str(splits), *words, "--out", str(tmp_path), capsys=capsys)
    assert code == 78
    assert "row ease_blend: EASE needs a dense matrix of all pairs" in caplog.text
    assert "--families random" in caplog.records[-1].hint
    assert not (tmp_path / "work").exists()


def test_all_rows_that_cannot_be_made_are_named_at_once_with_how_to_leave_them_out(
    quiet, tmp_path, capsys, caplog, monkeypatch
):
    splits = write_splits(tmp_path / "splits", num_users=20, num_items=120, num_scenarios=1)
    words = ["--table", "item-tower", "--work", str(tmp_path / "work"), "--out", str(tmp_path)]
    code, _, _ = run_command(str(splits), *words, capsys=capsys)
    assert code == 78
    for row in ("adin_spec", "sass", "m5_item_scenario"):
        assert re.search(rf"\b{row}\b.*: .*scenario", caplog.text), row
    (left_out,) = re.findall(r"--without ([\w ]+)", caplog.records[-1].hint)
    assert {"adin", "sass"} <= set(left_out.split()) <= set(TABLES["item-tower"].rows)
    monkeypatch.setattr("components.comparison.making.make_missing", lambda *_, **__: [])
    caplog.clear()
    run_command(str(splits), *words, "--without", *left_out.split(), capsys=capsys)
    assert "no finished run" in caplog.text  # the others can be made: it came to the tables


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("no marks\n", "main.md has no place for the text"),
        (
            "<!-- made by perscen compare, table sweeps -->\n"
            "<!-- end of perscen compare, table sweeps -->\n",
            "made by perscen compare, table main",
        ),
    ],
)
def test_a_page_without_place_for_the_tables_is_told_before_anything_is_trained(
    page, says, quiet, untrained, tmp_path, capsys, caplog
):
    splits = write_splits(tmp_path / "splits", num_users=20, num_items=120)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/main.md").write_text(page)
    places = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    code, _, _ = run_command(str(splits), *places, capsys=capsys)
    assert code == 66
    assert f"{tmp_path / 'out/main.md'} has no place for the text" in caplog.text
    assert says in caplog.text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["main.md"]
    assert (tmp_path / "out/main.md").read_text() == page


@pytest.mark.parametrize("out", ["file/pages", "closed/pages"])
def test_a_place_that_cannot_be_written_to_is_told_before_anything_is_trained(
    out, quiet, untrained, tmp_path, capsys, caplog, monkeypatch
):
    splits = write_splits(tmp_path / "splits", num_users=20, num_items=120)
    (tmp_path / "file").write_text("")
    (tmp_path / "closed").mkdir()
    allowed = os.access  # root may write everywhere
    monkeypatch.setattr(
        "os.access",
        lambda path, mode: (
            allowed(path, mode) and (Path(path).name != "closed" or not mode & os.W_OK)
        ),
    )
    places = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / out)]
    code, _, _ = run_command(str(splits), *places, capsys=capsys)
    assert code == 78
    assert f"--out {tmp_path / out} cannot be written to" in caplog.text


def test_a_table_is_written_without_the_rows_that_are_left_out(quiet, tmp_path, capsys):
    splits = write_splits(tmp_path / "splits", num_users=20)
    fill(Work(tmp_path / "work", splits_digest=payload_digest(splits)), seeds=1)
    others = [name for name in TABLES["main"].rows if name not in ("perscen", "dssm_m")]
    code, out, _ = run_command(
        *(str(splits), "--table-only", "--without", *others, "--seeds", "1", "--ks", "5", "10"),
        *("--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")),
        capsys=capsys,
    )
    assert code == 0
    assert "are missing" not in out
    assert set(pl.read_csv(tmp_path / "out/main.csv")["row"]) == {"perscen", "dssm_m"}


def test_when_every_run_fails_the_reasons_are_told_and_the_code_is_theirs(
    quiet, tmp_path, capsys, caplog, monkeypatch
):
    diverged = Failure("the loss is nan", kind="TrainingDiverged")
    monkeypatch.setattr(
        "components.comparison.making.make_missing",
        lambda runs, *_, **__: [Outcome(run, failure=diverged) for run in runs],
    )
    splits = write_splits(tmp_path / "splits", num_users=20)
    words = ["--families", "dssm_m", "--set", "train.monitor_k=5", "--seeds", "2", "--ks", "5"]
    places = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    code, _, _ = run_command(str(splits), *words, *places, capsys=capsys)
    assert code == 70
    assert "dssm_m seed 1 failed: the loss is nan" in caplog.text
    assert "--table-only" not in caplog.text
    assert not (tmp_path / "out").exists()


def test_the_command_writes_what_is_there_without_training(quiet, tmp_path, capsys):
    splits = write_splits(tmp_path / "splits", num_users=20)
    fill(Work(tmp_path / "work", splits_digest=payload_digest(splits)), seeds=2)
    code, out, _ = run_command(
        *(str(splits), "--table-only", "--families", "perscen", "dssm_m", "--seeds", "3"),
        *("--ks", "5", "10", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")),
        capsys=capsys,
    )
    assert code == 0
    assert "2 of 6 runs are missing" in out
    assert f"wrote {tmp_path / 'out/rows.md'}" in out
    assert "perscen 2 of 3, dssm_m 2 of 3" in (tmp_path / "out/rows.md").read_text()
