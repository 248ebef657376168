"""The ``train`` step on small splits: what it writes, that it writes it again, and how it stops."""

from __future__ import annotations

import json
import os
import signal
from datetime import date
from pathlib import Path

import pytest
import torch
import yaml

from components.runner import run_step
from components.steps import train as steps_train
from components.store import open_artifact, write_manifest
from perscen.data.splits import Splits
from perscen.errors import Preempted
from perscen.manifests import ChampionManifest, ModelManifest, SplitsManifest, Window
from perscen.models.families import load_model
from perscen.models.fingerprint import space_fingerprint
from perscen.retrieval.bundle import Lineage, write_bundle
from tests.factories import random_splits

DAY = date(2022, 5, 5)
STAMP = {
    "logical_date": DAY,
    "code_version": "c",
    "config_digest": "d",
    "parents": {},
}
TRAIN = {
    "loss": "full_softmax",
    "batch": {"size": 16, "unit": "positives", "by_scenario": True},
    "monitor_k": 5,
    "max_epochs": 2,
    "device": "cpu",
}
MODEL = {"emb": {"dim": 4}, "gnn": {"layers": 2}, "vq": {"codebook_size": 3}, "out_dim": 8}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """Splits, a champion that is none, and an MLflow database, made once."""
    place = tmp_path_factory.mktemp("workplace")
    splits = random_splits()
    splits.save(place / "splits")
    window = Window(first=DAY, last=DAY)
    rows = {part: {"s0": 1, "s1": 1} for part in ("train", "valid", "test")}
    manifest = SplitsManifest(
        **STAMP,
        step="split",
        scenarios=["s0", "s1"],
        train=window,
        valid=window,
        test=window,
        num_items=30,
        num_users=20,
        rows=rows,
    )
    write_manifest(place / "splits", manifest)
    (place / "champion").mkdir()
    none = ChampionManifest(
        **STAMP, step="champion", name="perscen", version=None, bundle_id=None, champion_date=None
    )
    write_manifest(place / "champion", none)
    return place


@pytest.fixture(autouse=True)
def _own_tracking(workplace, monkeypatch):
    import mlflow

    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: f"sqlite:///{workplace}/mlflow.db")


def train(
    workplace: Path, output: Path, champion: Path | None = None, **changes: object
) -> ModelManifest:
    config = output.with_suffix(".yaml")
    tree = {
        "run": {"logical_date": DAY},
        "split": {"train_days": 6, "valid_days": 2, "test_days": 2},
        "model": {"family": "perscen", **MODEL},
        "train": {**TRAIN, **changes},
    }
    config.write_text(yaml.safe_dump(tree))
    manifest = run_step(
        "train",
        config=config,
        logical_date=DAY,
        inputs={"splits": workplace / "splits", "champion": champion or workplace / "champion"},
        output=output,
    )
    assert isinstance(manifest, ModelManifest)
    return manifest


@pytest.fixture(scope="module")
def trained(workplace) -> tuple[Path, ModelManifest]:
    import mlflow

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow, "get_tracking_uri", lambda: f"sqlite:///{workplace}/mlflow.db")
        return workplace / "model", train(workplace, workplace / "model")


@pytest.mark.medium
def test_the_model_artifact_holds_what_serving_and_report_need(trained, workplace):
    path, manifest = trained
    assert open_artifact(path, kind="model").manifest == manifest
    files = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
    assert files == {
        "weights.safetensors",
        "model.json",
        "schema.json",
        "vocabularies.json",
        "scalers.json",
        "epochs.json",
        "code_counts.json",
        "plots/loss.json",
        "plots/recall.json",
        "plots/code_usage.json",
        "manifest.json",
        "run.json",
    }
    model = load_model(path)
    assert manifest.num_parameters == sum(p.numel() for p in model.parameters())
    assert manifest.fingerprint == space_fingerprint(
        model, Splits.open(workplace / "splits").vocabularies
    )
    epochs = json.loads((path / "epochs.json").read_text())
    assert [epoch["epoch"] for epoch in epochs] == [1, 2] == list(range(1, manifest.epochs + 1))
    assert manifest.valid_recall == epochs[manifest.best_epoch - 1]["recall"]
    counts = json.loads((path / "code_counts.json").read_text())
    splits = Splits.open(workplace / "splits")
    has_clicks = splits.valid_slices.spec_end > splits.valid_slices.spec_start
    assert has_clicks.any()
    assert not has_clicks.all()
    assert manifest.num_codes == 3
    for number, scenario in enumerate(("s0", "s1")):
        assert len(counts[scenario]) == 3
        own = has_clicks[splits.valid.scenario == number]
        assert sum(counts[scenario]) == manifest.code_queries[scenario] == own.sum()
        used = sum(count > 0 for count in counts[scenario]) / 3
        assert manifest.code_usage[scenario] == pytest.approx(used)
    recalls = json.loads((path / "plots/recall.json").read_text())
    assert recalls[0] == {"epoch": 1, "scenario": "s0", "recall": epochs[0]["recall"]["s0"]}


@pytest.mark.medium
def test_the_same_inputs_give_the_same_digest_and_the_recipe_ignores_the_seed(
    trained, workplace, tmp_path
):
    _, first = trained
    assert train(workplace, tmp_path / "model").digest == first.digest
    other = train(workplace, tmp_path / "other", seed=1)
    assert other.digest != first.digest
    assert other.recipe_digest == first.recipe_digest
    assert train(workplace, tmp_path / "third", max_epochs=1).recipe_digest != first.recipe_digest


@pytest.mark.medium
def test_mlflow_shows_settings_tags_and_a_curve_per_scenario(trained, workplace):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{workplace}/mlflow.db")
    experiment = client.get_experiment_by_name("perscen")
    assert experiment is not None
    run = client.search_runs([experiment.experiment_id], order_by=["start_time ASC"])[0]
    assert run.info.status == "FINISHED"
    assert run.data.params["train.loss"] == "full_softmax"
    assert run.data.params["model.emb.dim"] == "4"
    assert run.data.tags["logical_date"] == "2022-05-05"
    assert run.data.tags["run_id"] == json.loads((trained[0] / "run.json").read_text())["run_id"]
    for name in ("loss", "recall_5/s0", "recall_5/macro", "code_usage/s1"):
        history = client.get_metric_history(run.info.run_id, name)
        assert [point.step for point in history] == [1, 2]
    assert (
        history[-1].value
        == json.loads((trained[0] / "epochs.json").read_text())[-1]["code_usage"]["s1"]
    )


@pytest.mark.medium
def test_sigterm_leaves_a_checkpoint_and_the_next_attempt_ends_as_if_undisturbed(
    trained, workplace, tmp_path, monkeypatch
):
    from perscen.training import loop

    take_step = loop._Training._take_step

    def terminated(self, rows_B):
        take_step(self, rows_B)
        if self._steps.epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(loop._Training, "_take_step", terminated)
        with pytest.raises(Preempted, match="told to stop in epoch 2 after step 1"):
            train(workplace, tmp_path / "model")
    assert signal.getsignal(signal.SIGTERM) == before
    assert not (tmp_path / "model").exists()
    assert (tmp_path / "model.state/checkpoint.pt").exists()
    assert train(workplace, tmp_path / "model").digest == trained[1].digest
    assert not (tmp_path / "model.state").exists()


@pytest.mark.medium
def test_a_tracking_server_that_is_gone_costs_one_warning_and_no_training(
    trained, workplace, tmp_path, monkeypatch, caplog
):
    import mlflow

    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert train(workplace, tmp_path / "model").digest == trained[1].digest
    warnings = [r for r in caplog.records if r.getMessage().startswith("tracking server not")]
    assert len(warnings) == 1


@pytest.mark.medium
def test_a_warm_start_goes_on_from_the_champions_weights_without_pretraining_them_again(
    trained, workplace, tmp_path, caplog, monkeypatch
):
    path, manifest = trained
    asked, fit = [], steps_train.fit

    def spied(*args, pretrain, **options):
        asked.append(pretrain)
        return fit(*args, pretrain=pretrain, **options)

    monkeypatch.setattr(steps_train, "fit", spied)
    run_step(
        "index",
        config=path.with_suffix(".yaml"),
        logical_date=DAY,
        inputs={"model": path, "splits": workplace / "splits"},
        output=tmp_path / "indexes",
    )
    splits = Splits.open(workplace / "splits")
    lineage = dict.fromkeys(
        ["splits_digest", "model_digest", "indexes_digest", "verdict_digest"], "0" * 64
    )
    champion = tmp_path / "champion"
    write_bundle(
        champion / "bundle",
        model=path,
        indexes=tmp_path / "indexes",
        fingerprint=manifest.fingerprint,
        splits=splits,
        lineage=Lineage(
            **lineage,
            logical_date=DAY,
            code_version="c",
            config_digest="d",
            previous_bundle_id=None,
        ),
        num_probes=1,
        include_users=False,
    )
    record = ChampionManifest(
        **STAMP, step="champion", name="p", version="1", bundle_id="b", champion_date=DAY
    )
    write_manifest(champion, record)
    still = {"optim": {"lr": 1e-12}, "max_epochs": 1, "warm_start": True}
    warm = train(workplace, tmp_path / "model", champion, **still)
    assert warm.valid_recall == manifest.valid_recall
    started, went_on = load_model(path).state_dict(), load_model(tmp_path / "model").state_dict()
    for name, weight in started.items():
        torch.testing.assert_close(went_on[name], weight, msg=name)
    with caplog.at_level("INFO", logger="components.steps.train"):
        fresh = train(workplace, tmp_path / "fresh", **still)
    assert fresh.fingerprint != warm.fingerprint
    assert "no champion to start from, starting fresh" in caplog.messages
    assert asked == [False, True]
