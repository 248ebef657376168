"""A small published world: real artifacts of every kind that publishing reads, made in a moment."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from components.runner import Task
from components.steps import champion, index, publish
from components.store import Artifact, open_artifact, write_manifest
from perscen.config import IndexConfig, PublishConfig
from perscen.data.splits import Splits
from perscen.evaluation.verdict import Decision, Finding, Outcome, Verdict, write_verdict
from perscen.manifests import (
    AnyManifest,
    ModelManifest,
    ReportManifest,
    SplitsManifest,
    VerdictManifest,
    Window,
)
from perscen.models.config import EmbeddingConfig, PerscenConfig, PreferenceConfig
from perscen.models.families import make_model
from perscen.models.fingerprint import space_fingerprint
from perscen.staging import staged
from tests.factories import random_splits

DAY = date(2022, 5, 5)
CONFIG = PerscenConfig(emb=EmbeddingConfig(dim=4), pref=PreferenceConfig(dim=4), out_dim=8)
PUBLISH = PublishConfig(probes=3)


@dataclass(frozen=True)
class World:
    """The artifacts of one run for one day, up to the verdict."""

    root: Path
    day: date

    def path(self, name: str) -> Path:
        return self.root / name

    def open(self, name: str) -> Artifact[Any]:
        return open_artifact(self.path(name), kind=name)

    def task(self, output: Path, *inputs: str) -> Task:
        artifacts = {name: self.open(name) for name in inputs}
        parents = {name: artifact.manifest.digest for name, artifact in artifacts.items()}
        return Task(
            inputs=artifacts,
            output=output,
            logical_date=self.day,
            run_id="run",
            state=self.root / "state",
            aftermath=self.root / "state",
            stamp=stamp(self.day, parents),
        )

    def judge(
        self, decision: Decision = Decision.PROMOTE, *, findings: tuple[Finding, ...] = ()
    ) -> None:
        """Write a verdict on this model and these indexes against this champion."""
        model, indexes, against = (self.open(n).manifest for n in ("model", "indexes", "champion"))
        verdict = Verdict(
            decision=decision,
            logical_date=self.day,
            model_digest=model.digest,
            indexes_digest=indexes.digest,
            champion_bundle_id=against.bundle_id,
            k=50,
            alpha=0.05,
            power=0.8,
            scenarios=(),
            findings=findings,
            summary="",
        )
        with staged(self.path("verdict")) as scratch:
            write_verdict(verdict, scratch)
            manifest = VerdictManifest(
                **stamp(self.day),
                model_digest=model.digest,
                indexes_digest=indexes.digest,
                decision=decision.value,
            )
            write_manifest(scratch, manifest)

    def find_champion(self) -> AnyManifest:
        """Run the step that writes down the champion."""
        with staged(self.path("champion")) as scratch:
            return write_manifest(scratch, champion.run(self.task(scratch), publish=PUBLISH))

    def publish(self, config: PublishConfig = PUBLISH) -> dict[str, Any]:
        """Publish, and return what stands in ``release.json``."""
        inputs = ("model", "indexes", "splits", "champion", "verdict", "report")
        with staged(self.path("release")) as scratch:
            write_manifest(scratch, publish.run(self.task(scratch, *inputs), publish=config))
        record: dict[str, Any] = json.loads((self.path("release") / "release.json").read_text())
        return record


def make_world(root: Path, *, seed: int = 0, day: date = DAY, flat_below: int = 10**6) -> World:
    """Return splits, a random model, its indexes and a report; no champion or verdict yet."""
    world, splits = World(root, day), random_splits(seed=3)
    with staged(world.path("splits")) as scratch:
        splits.save(scratch)
        write_manifest(scratch, _splits_manifest(splits, day))
    with staged(world.path("model")) as scratch:
        write_manifest(scratch, _make_model(splits, scratch, world, seed=seed))
    with staged(world.path("indexes")) as scratch:
        task = world.task(scratch, "model", "splits")
        config = IndexConfig(flat_below=flat_below)
        write_manifest(scratch, index.run(task, index=config))
    with staged(world.path("report")) as scratch:
        (scratch / "index.html").write_text("<p>page</p>")
        write_manifest(scratch, ReportManifest(**stamp(day)))
    return world


def released(world: World) -> dict[str, Any]:
    """Look up the champion, judge, publish."""
    world.find_champion()
    world.judge()
    return world.publish()


def stamp(day: date, parents: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "step": "test",
        "logical_date": day,
        "code_version": "c" * 64,
        "config_digest": "d" * 64,
        "parents": parents or {},
    }


def failing(scenario: str, message: str) -> Finding:
    """Return a finding that blocks."""
    return Finding(gate="floor", scenario=scenario, outcome=Outcome.FAIL, message=message)


def _make_model(splits: Splits, directory: Path, world: World, *, seed: int) -> ModelManifest:
    torch.manual_seed(seed)
    model = make_model(splits.schema, CONFIG)
    with torch.no_grad():
        # Fresh towers give nearly equal vectors to all; these tell everybody apart.
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save(directory)
    for name in ("vocabularies.json", "scalers.json"):
        (directory / name).write_bytes((world.path("splits") / name).read_bytes())
    return ModelManifest(
        **stamp(world.day, {"splits": world.open("splits").manifest.digest}),
        family="perscen",
        recipe_digest="e" * 64,
        fingerprint=space_fingerprint(model, splits.vocabularies),
        num_parameters=1,
        best_epoch=1,
        epochs=1,
        valid_recall={},
        code_usage={},
    )


def _splits_manifest(splits: Splits, day: date) -> SplitsManifest:
    window = Window(first=day, last=day)
    return SplitsManifest(
        **stamp(day),
        scenarios=list(splits.schema.scenarios),
        train=window,
        valid=window,
        test=window,
        num_items=splits.schema.num_item_rows - 2,
        num_users=len(splits.users.ids) - 2,
        rows={},
    )
