"""A whole run of the pipeline in miniature: every step, on a synthetic log of a few users."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from components.pipeline import PIPELINE
from components.runner import run_step
from perscen.data.synthetic import import_synthetic
from perscen.manifests import AnyManifest

DAY = date(2022, 5, 5)
NUM_ITEMS = 80
SETTINGS: dict[str, dict[str, Any]] = {
    "run": {"logical_date": DAY},
    "split": {"train_days": 7, "valid_days": 2, "test_days": 2},
    "model": {
        "family": "perscen",
        "emb": {"dim": 8},
        "gnn": {"layers": 2},
        "vq": {"codebook_size": 3},
        "out_dim": 8,
    },
    "train": {
        "loss": "full_softmax",
        "batch": {"size": 256, "unit": "positives", "by_scenario": True},
        "monitor_k": 10,
        "max_epochs": 2,
        "device": "cpu",
    },
    "evaluate": {"ks": [10, 20]},
    # So few users and epochs prove nothing: here the gate is to be passed, not to be tested.
    "gate": {"k": 10, "code_usage_floor": 0.0, "relative_margin": 1.0},
    "publish": {"probes": 3},
}


@dataclass(frozen=True)
class MiniRun:
    """The artifacts of a run, each in a folder of its name."""

    root: Path

    def argv(self, step: str, *, out: str | None = None) -> list[str]:
        """The command line of a step, as its documentation has it."""
        return PIPELINE[step].argv(
            config=str(self.root / "params.yaml"),
            logical_date=DAY.isoformat(),
            places={name: str(self.root / name) for name in (*PIPELINE[step].inputs, "raw_log")}
            | {PIPELINE[step].output: str(self.root / (out or PIPELINE[step].output))},
        )

    def write_params(self, **changes: dict[str, Any]) -> None:
        """Write the settings, with changes one level deep; another family's are taken whole."""
        tree = {name: {**SETTINGS.get(name, {}), **changes.get(name, {})} for name in SETTINGS}
        tree |= {name: given for name, given in changes.items() if "family" in given}
        tree |= {name: given for name, given in changes.items() if name not in tree}
        (self.root / "params.yaml").write_text(yaml.safe_dump(tree))

    def run(self, step: str, *, out: str | None = None) -> AnyManifest:
        """Run a step in this process."""
        return run_step(
            step,
            config=self.root / "params.yaml",
            logical_date=DAY,
            inputs={name: self.root / name for name in PIPELINE[step].inputs},
            output=self.root / (out or PIPELINE[step].output),
        )


def make_run(root: Path) -> MiniRun:
    """Write a raw log and run every step on it."""
    import_synthetic(root / "raw_log", num_users=150, num_items=NUM_ITEMS)
    run = MiniRun(root)
    run.write_params()
    for step in PIPELINE.steps:
        run.run(step.name)
    return run
