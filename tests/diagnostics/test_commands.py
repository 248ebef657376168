"""``perscen diagnose`` on tiny artifacts: tables, files, and refusals in words."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import polars as pl
import pytest
from click.testing import CliRunner, Result

from components.cli import program
from components.diagnosis import findings, trials
from components.diagnosis.showing import Finding, show
from components.diagnosis.trials import Kept
from components.store import open_artifact, write_manifest
from perscen.config import Config
from perscen.data.splits import Splits
from perscen.diagnostics.trials import Trial
from perscen.errors import ArtifactError, ConfigError
from perscen.manifests import MANIFEST
from perscen.models.config import DssmConfig
from perscen.models.families import make_model
from tests.factories import random_splits
from tests.report.artifacts import write_run
from tests.report.run import SCENARIOS, Run

pytestmark = pytest.mark.medium


def diagnose(*words: object) -> Result:
    """Return what the command answers; errors are raised as they are."""
    return CliRunner().invoke(program, ["diagnose", *map(str, words)], catch_exceptions=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with a model and splits that belong together."""
    return write_run(tmp_path_factory.mktemp("run"), Run())


def test_a_models_codes_are_told_and_drawn(run, tmp_path) -> None:
    page = tmp_path / "page.md"
    words = ["--steps", 5, "--out", tmp_path, "--page", page]
    answer = diagnose("quantiser", run["model"], run["splits"], *words)
    assert answer.exit_code == 0, answer.output
    codes = pl.read_csv(tmp_path / "codes.csv")
    assert codes["scenario"].cast(str).to_list() == list(SCENARIOS)
    assert codes["used"].max() <= 10
    assert len(pl.read_csv(tmp_path / "codes-shared.csv")) == 6
    assert pl.read_csv(tmp_path / "quantiser-alone.csv")["remedy"].to_list()[-1] == "k-means"
    assert ET.fromstring((tmp_path / "codes.svg").read_text()).tag.endswith("svg")
    assert "divergence" in answer.output
    assert page.read_text().count("| k-means |") == 1


def test_names_of_scenarios_are_text_in_a_pages_tables(tmp_path) -> None:
    name = "home|feed <b>"
    table = pl.DataFrame({"scenario": [name], f"recall/{name}": [0.5]})
    page = tmp_path / "page.md"
    show([Finding("names", "Names", table)], out=tmp_path, page=page, made_by="x")
    rows = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    assert rows == [
        r"| scenario | recall home\|feed &lt;b&gt; |",
        r"| home\|feed &lt;b&gt; | 50.00% |",
    ]


def test_a_page_without_a_place_is_refused_before_any_work(run, tmp_path, monkeypatch) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("it worked before it looked at the page")

    for place in (findings, trials):
        for name in ("alone_on_clusters", "codes_of_model", "gates_of_model", "case_study"):
            monkeypatch.setattr(place, name, work, raising=False)
    monkeypatch.setattr(trials, "run_trial", work)
    page, params = tmp_path / "page.md", tmp_path / "params.yaml"
    page.write_text("# No marks\n")
    params.write_text(
        "run: {logical_date: 2022-05-05}\nsplit: {train_days: 7, valid_days: 2, test_days: 2}\n"
        "model: {family: perscen}\n"
    )
    both = (run["model"], run["splits"])
    trained = (run["splits"], "--config", params, "--work", tmp_path / "work")
    for words in (
        ("quantiser", "--clusters", 3),
        ("quantiser", *both),
        ("gates", *both),
        ("figures", *both),
        ("remedies", *trained),
        ("graph", *trained),
    ):
        with pytest.raises(ArtifactError) as refused:
            diagnose(*words, "--out", tmp_path, "--page", page)
        assert refused.value.message.startswith(f"{page} has no place for the text")
        assert f"made by perscen diagnose {words[0]}" in refused.value.message
    assert page.read_text() == "# No marks\n"


def test_clusters_need_no_model(tmp_path) -> None:
    words = ["--clusters", 3, "--codes", 4, "--steps", 5, "--out", tmp_path]
    assert diagnose("quantiser", *words).exit_code == 0
    assert len(pl.read_csv(tmp_path / "quantiser-clusters.csv")) == 6
    refused = diagnose("quantiser", tmp_path, *words)
    assert refused.exit_code == 2
    assert "give MODEL and SPLITS, or --clusters and neither" in refused.output


def test_an_option_that_would_be_passed_over_is_refused(run, tmp_path) -> None:
    model = (run["model"], run["splits"], "--codes", 4)
    built = ("--clusters", 3, "--window", "test")
    for words, told in (
        (model, "--codes is for --clusters: a model has its own"),
        (built, "--window is for MODEL and SPLITS: clusters have none"),
    ):
        refused = diagnose("quantiser", *words, "--steps", 5, "--out", tmp_path)
        assert refused.exit_code == 2
        assert told in " ".join(refused.output.split())


def test_help_shows_examples_line_by_line() -> None:
    answer = diagnose("quantiser", "--help").output
    assert "\\b" not in answer
    assert "\n    perscen diagnose quantiser --clusters 8 --codes 10\n" in answer


def test_gates_and_the_case_study_are_drawn(run, tmp_path) -> None:
    assert diagnose("gates", run["model"], run["splits"], "--out", tmp_path).exit_code == 0
    gates = pl.read_csv(tmp_path / "gates.csv")
    assert len(gates) == 4 * len(SCENARIOS)
    assert gates["mean"].is_between(0, 1).all()
    page = tmp_path / "case-study.md"
    words = ["--out", tmp_path / "drawn", "--page", page]
    answer = diagnose("figures", run["model"], run["splits"], *words)
    assert "Two of these users share" in answer.output
    assert "](drawn/figure-4.svg)" in page.read_text()
    six = ET.fromstring((tmp_path / "drawn/figure-4.svg").read_text())
    assert len([child for child in six if child.tag.endswith("svg")]) == 6
    assert "var(--" not in (tmp_path / "drawn/figure-5.svg").read_text()


def test_a_model_and_splits_of_different_runs_are_refused(run, tmp_path) -> None:
    other = write_run(tmp_path / "other", Run(codebook=4))
    manifest = json.loads((other["splits"] / "manifest.json").read_text())
    (other["splits"] / "scalers.json").write_text("{}")
    write_manifest(other["splits"], MANIFEST.validate_python(manifest))
    with pytest.raises(ArtifactError, match="was trained on splits"):
        diagnose("gates", run["model"], other["splits"])


def test_a_family_without_codes_gates_or_graph_says_so(run, tmp_path) -> None:
    model = tmp_path / "model"
    towers = make_model(Splits.open(run["splits"]).schema, DssmConfig())
    towers.save(model)
    write_manifest(model, open_artifact(run["model"], kind="model").manifest)
    for word, part in (("quantiser", "codebook"), ("gates", "gate"), ("figures", "feature graph")):
        with pytest.raises(ConfigError, match=rf"the model \(dssm\) has no {part}"):
            diagnose(word, model, run["splits"], "--out", tmp_path)
    params = tmp_path / "params.yaml"
    params.write_text(
        "run: {logical_date: 2022-05-05}\nsplit: {train_days: 7, valid_days: 2, test_days: 2}\n"
        "model: {family: dssm}\n"
    )
    for word, part in (("remedies", "codebook"), ("graph", "feature graph")):
        with pytest.raises(ConfigError, match=rf"of a model \(dssm\) without a {part}"):
            diagnose(word, run["splits"], "--config", params, "--out", tmp_path)


SETTINGS = Config.model_validate(
    {
        "run": {"logical_date": "2022-05-05"},
        "split": {"train_days": 7, "valid_days": 2, "test_days": 2},
        "model": {"family": "perscen"},
    }
)


def test_a_trial_of_other_code_is_run_again(tmp_path, monkeypatch) -> None:
    ran = []

    def trial(*_: object, epochs: int) -> Trial:
        ran.append(epochs)
        return Trial(epochs=epochs, best_epoch=1, macro_recall=0.5, recall={}, train_cpu_s=1.0)

    monkeypatch.setattr(trials, "run_trial", trial)
    for code, number in (("b", 1), ("b", 1), ("c", 2)):
        kept = Kept(tmp_path, follows_from=["a" * 64, code])
        kept.run(random_splits(), SETTINGS.model, SETTINGS.train, epochs=2)
        assert len(ran) == number


def test_a_kept_trial_that_cannot_be_read_is_named(tmp_path, monkeypatch) -> None:
    trial = Trial(epochs=2, best_epoch=1, macro_recall=0.5, recall={}, train_cpu_s=1.0)
    monkeypatch.setattr(trials, "run_trial", lambda *_, **__: trial)
    kept = Kept(tmp_path, follows_from=["a" * 64])
    kept.run(random_splits(), SETTINGS.model, SETTINGS.train, epochs=2)
    (path,) = tmp_path.iterdir()
    for broken in (b"{", b"\xff"):
        path.write_bytes(broken)
        with pytest.raises(ArtifactError, match="is not a finished trial") as told:
            kept.run(random_splits(), SETTINGS.model, SETTINGS.train, epochs=2)
        assert told.value.hint == f"remove {path}, and the trial is run again"


def test_trials_that_are_finished_are_not_run_again(tmp_path, monkeypatch) -> None:
    ran = []

    def trial(*_: object, epochs: int) -> Trial:
        ran.append(epochs)
        if len(ran) == 3:
            raise KeyboardInterrupt
        recall = {"s0": 0.25, "s1": 0.75}
        return Trial(epochs=epochs, best_epoch=1, macro_recall=0.5, recall=recall, train_cpu_s=1.0)

    monkeypatch.setattr(trials, "run_trial", trial)
    splits, settings, kept = random_splits(), SETTINGS, Kept(tmp_path, follows_from=["a" * 64])
    with pytest.raises(KeyboardInterrupt):
        trials.compare_remedies(splits, settings, epochs=2, keep=kept)
    found = trials.compare_remedies(splits, settings, epochs=2, keep=kept)
    assert len(ran) == 1 + found.table.height  # but for the one that was broken off, once each
    assert found.table["macro_recall"].to_list() == [0.5] * found.table.height
    trials.compare_remedies(splits, settings, epochs=3, keep=kept)
    assert ran[-1] == 3
    costs = trials.compare_refinements(splits, settings, epochs=2, keep=kept).table
    assert (costs["held_mb"] > 0).all()
