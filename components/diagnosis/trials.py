"""Trainings that differ in one thing, kept as they finish, so that a run that stopped goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import polars as pl
from markupsafe import Markup
from pydantic import ValidationError

from components.diagnosis import figures
from components.diagnosis.showing import Finding
from perscen.config import Config, TrainConfig
from perscen.data.splits import Splits
from perscen.diagnostics.kernel_cost import KernelCost, kernel_cost
from perscen.diagnostics.quantising import remedies
from perscen.diagnostics.trials import Trial, refinements, run_trial, trial_table
from perscen.digests import json_digest
from perscen.errors import ArtifactError, ConfigError
from perscen.models.config import PerscenConfig
from perscen.models.perscen import Perscen
from perscen.staging import write_whole


class Kept:
    """Finished trials on disk, by everything they follow from.

    Args:
        directory: Where they lie.
        follows_from: Digests of the splits and of the code.
    """

    def __init__(self, directory: Path, *, follows_from: Sequence[str]) -> None:
        self._directory = directory
        self._follows_from = follows_from

    def run(
        self, splits: Splits, model: PerscenConfig, train: TrainConfig, *, epochs: int
    ) -> Trial:
        """Return a trial, from disk when it was run before.

        Raises:
            ArtifactError: What lies there is not what this class writes.
            StorageFull: There is no room for it.
        """
        settings = [*self._follows_from, model.model_dump(mode="json"), epochs]
        settings.append(train.model_dump(mode="json"))
        path = self._directory / f"{json_digest(settings)[:16]}.json"
        if path.exists():
            try:
                return Trial.model_validate_json(path.read_bytes())
            except ValidationError as exc:
                raise ArtifactError(
                    f"{path} is not a finished trial: {exc.errors()[0]['msg']}",
                    hint=f"remove {path}, and the trial is run again",
                ) from exc
        trial = run_trial(splits, model, train, epochs=epochs)
        self._directory.mkdir(parents=True, exist_ok=True)
        write_whole(path, trial.model_dump_json(indent=2) + "\n")
        return trial


def compare_remedies(splits: Splits, settings: Config, *, epochs: int, keep: Kept) -> Finding:
    """Return a row per remedy against dead codes, trained by the same data and seed.

    Raises:
        ConfigError: The settings are of a model without a codebook.
    """
    model = settings.model
    if not (
        isinstance(model, PerscenConfig)
        and model.vq.codebook_size
        and model.pref.sequence == "spec"
    ):
        raise ConfigError(
            f"the settings are of a model ({model.family}) without a codebook",
            hint="set model.family: perscen, model.pref.sequence: spec and vq.codebook_size >= 1",
        )
    variants = {
        name: model.model_copy(update={"vq": vq}) for name, vq in remedies(model.vq).items()
    }
    trials = _run_all(splits, variants, settings.train, epochs=epochs, keep=keep)
    table = trial_table(trials, what="remedy")
    drawn = _dots(trials, name="remedies", title=_metric(settings))
    return Finding("remedies", _title("Remedies", epochs, settings), table, {"remedies": drawn})


def compare_refinements(splits: Splits, settings: Config, *, epochs: int, keep: Kept) -> Finding:
    """Return a row per way to refine the graph, with the cost of the user tower's graphs.

    Raises:
        ConfigError: The settings are of a model without a feature graph.
    """
    variants = refinements(settings.model)
    trials = _run_all(splits, variants, settings.train, epochs=epochs, keep=keep)
    costs = {name: _cost(splits, model) for name, model in variants.items()}
    recalls = trial_table(trials, what="refinement")
    table = recalls.drop("used", "dead", "perplexity", "distortion", "spread").with_columns(
        pl.Series(column, [getattr(cost, column) for cost in costs.values()])
        for column in KernelCost._fields
    )
    drawn = _dots(trials, name="graph", title=_metric(settings))
    return Finding("graph", _title("Refinements", epochs, settings), table, {"graph": drawn})


def _run_all(
    splits: Splits,
    variants: Mapping[str, PerscenConfig],
    train: TrainConfig,
    *,
    epochs: int,
    keep: Kept,
) -> dict[str, Trial]:
    trials = {}
    for number, (name, model) in enumerate(variants.items(), start=1):
        click.echo(f"{number} of {len(variants)}: {name}", err=True)
        trials[name] = keep.run(splits, model, train, epochs=epochs)
    return trials


def _cost(splits: Splits, model: PerscenConfig) -> KernelCost:
    num_nodes = len(Perscen(splits.schema, model).user_fields.names)
    rows, layers = 1024, model.gnn.layers
    return kernel_cost(
        model.graph, layers=layers, num_nodes=num_nodes, dim=model.emb.dim, rows=rows
    )


def _dots(trials: Mapping[str, Trial], *, name: str, title: str) -> Markup:
    values = {label: trial.macro_recall for label, trial in trials.items()}
    return figures.dots(values, name=name, title=title)


def _metric(settings: Config) -> str:
    return f"Validation Recall@{settings.train.monitor_k}, mean over scenarios"


def _title(what: str, epochs: int, settings: Config) -> str:
    return (
        f"{what}: one training each, {epochs} epochs, seed {settings.train.seed}; "
        f"Recall@{settings.train.monitor_k} of the validation window"
    )
