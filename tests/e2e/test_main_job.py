"""The main job, end to end, by the commands of the README on a small synthetic log."""

from __future__ import annotations

import json

import pytest

from components.pipeline import PIPELINE
from tests.e2e.project import Project, checkout

pytestmark = [pytest.mark.medium, pytest.mark.timeout(900)]

HASTY = {
    "train": {"max_epochs": 2},
    # Two epochs prove nothing: here the gate is to be passed, not to be tested.
    "gate": {"code_usage_floor": 0.0, "relative_margin": 0.5},
}


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Project:
    """A checkout in which the whole pipeline has run once and released."""
    project = checkout(tmp_path_factory.mktemp("released"))
    project.set(**HASTY)
    project.run("perscen", "data", "synthetic", "--to", "data/raw")
    printed = project.run("dvc", "repro")
    (project.path / "stderr.txt").write_text(printed.stderr)
    return project


def test_every_step_leaves_an_artifact_of_its_kind(released):
    kinds = {s.output: released.json(f"{s.output}/manifest.json")["kind"] for s in PIPELINE.steps}
    assert kinds == {s.output: s.output for s in PIPELINE.steps}


def test_every_line_of_the_log_is_json_with_its_step_and_run(released):
    lines = [json.loads(line) for line in (released.path / "stderr.txt").read_text().splitlines()]
    by_step: dict[str, set[str]] = {}
    for line in lines:
        assert {"time", "level", "event", "run_id", "step"} <= set(line)
        by_step.setdefault(line["step"], set()).add(line["run_id"])
    assert {"validate", "train", "evaluate", "gate", "publish"} <= set(by_step)
    assert all(len(run_ids) == 1 for run_ids in by_step.values())


def test_a_second_repro_does_nothing(released):
    before = released.lock()
    printed = released.run("dvc", "repro").stdout
    assert "Running stage" not in printed
    assert "up to date" in printed
    assert released.lock() == before


def test_the_summary_says_verdict_release_report_and_an_example(released):
    printed = released.run("perscen", "summary").stdout
    assert "promote" in printed
    assert "Released: perscen version 1" in printed
    assert "artifacts/report/index.html" in printed
    assert printed.count("scenario ") >= 2
    assert "10" in printed


def test_the_default_bundle_answers_for_known_and_unknown_users(released):
    argv = ("perscen", "retrieve", "--scenario", "1", "--k", "10", "--json")
    known, unknown = (
        json.loads(released.run(*argv, "--user", user).stdout) for user in ("1", "nobody-knows-me")
    )
    assert len(known["items"]) == len(unknown["items"]) == 10


def test_metrics_and_graph_show_as_people_expect(released):
    metrics = json.loads(released.run("dvc", "metrics", "show", "--json").stdout)
    candidate = metrics[""]["data"]["artifacts/scores/metrics.json"]["data"]["candidate"]
    assert 0 < candidate["recall_50"]["macro"] < 1
    assert "validate" in released.run("dvc", "dag").stdout
    released.run("dvc", "plots", "show")


def test_a_change_of_a_setting_reruns_what_reads_it_and_what_follows(released):
    released.set(gate={"alpha": 0.04})
    ran = released.run("dvc", "repro").stdout
    assert [s.name for s in PIPELINE.steps if f"Running stage '{s.name}'" in ran] == [
        "gate",
        "report",
        "publish",
    ]
    released.set(train={"max_epochs": 3})
    # A dry run names the first stage alone: what follows depends on what that one would make.
    ran = released.run("dvc", "repro", "--dry").stdout
    assert [s.name for s in PIPELINE.steps if f"Running stage '{s.name}'" in ran] == ["train"]
    released.set(train={"max_epochs": 2})
