"""``perscen compare`` as a command: what it refuses at once, what it leaves out, how it ends."""

from __future__ import annotations

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
    assert "--without ease_blend" in caplog.records[-1].hint
    assert not (tmp_path / "work").exists()


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
