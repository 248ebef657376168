"""The pipeline, declared once: its steps, their artifacts, and each step's one command line.

Everything that runs the pipeline (DVC, Airflow, KFP, a person) runs the argv built here. Parsing a
DAG must stay cheap, so this file imports the standard library alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Final

SPINE: Final = (
    "components/runner.py",
    "components/store.py",
    "perscen/config.py",
    "perscen/manifests.py",
)
"""Files every step goes through."""


class PipelineError(ValueError):
    """The declared graph makes no sense: a mistake in this file, found at import."""


@dataclass(frozen=True)
class Step:
    """One step: a process that reads named artifacts and makes exactly one."""

    name: str
    summary: str
    inputs: tuple[str, ...]
    output: str
    sections: tuple[str, ...]
    """Sections of ``params.yaml`` the step reads; a change of any other does not rerun it."""
    code: tuple[str, ...]
    """Files and packages whose change reruns the step, relative to the repository."""
    accelerated: bool = False
    """Whether the step profits from a GPU."""
    versioned: bool = False
    """Whether an orchestrated run commits the output to DVC and pushes it."""
    resumable: bool = False
    """Whether an attempt that is told to stop leaves a checkpoint for the next one."""

    @property
    def watched(self) -> tuple[str, ...]:
        """Every file and package whose change reruns the step: its own and the spine's."""
        return (*self.code, *SPINE)

    def argv(self, *, config: str, logical_date: str, places: Mapping[str, str]) -> list[str]:
        """Return the step's command line, with each artifact's place looked up in ``places``."""
        argv = ["python", "-m", "components", self.name]
        argv += ["--config", config, "--logical-date", logical_date]
        for name in self.inputs:
            argv += ["--in", name, places[name]]
        return [*argv, "--out", self.output, places[self.output]]


@dataclass(frozen=True)
class Pipeline:
    """A set of steps whose edges follow from the names of their artifacts.

    Raises:
        PipelineError: Two steps make one artifact, an input is made by nobody, or there is a cycle.
    """

    steps: tuple[Step, ...]
    external: frozenset[str]

    def __post_init__(self) -> None:
        """Refuse a graph that cannot run."""
        made = [step.output for step in self.steps]
        if twice := sorted({name for name in made if made.count(name) > 1}):
            raise PipelineError(f"made by two steps: {', '.join(twice)}")
        known = self.external | set(made)
        for step in self.steps:
            if missing := sorted(set(step.inputs) - known):
                raise PipelineError(f"{step.name} needs {', '.join(missing)}, which no step makes")
        try:
            TopologicalSorter(self.edges).prepare()
        except CycleError as exc:
            raise PipelineError(
                f"the steps wait for each other: {' -> '.join(exc.args[1])}"
            ) from exc

    @cached_property
    def edges(self) -> dict[str, frozenset[str]]:
        """The names of the steps each step waits for."""
        maker = {step.output: step.name for step in self.steps}
        return {
            s.name: frozenset(maker[name] for name in s.inputs if name in maker) for s in self.steps
        }

    def __getitem__(self, name: str) -> Step:
        """Return the step of that name."""
        return {step.name: step for step in self.steps}[name]


_DATA = ("perscen/schema.py", "perscen/data")
_MODEL = ("perscen/models",)
_REGISTRY = (
    "components/adapters/mlflow_client.py",
    "components/adapters/registry.py",
    "components/adapters/releases.py",
)

PIPELINE: Final = Pipeline(
    external=frozenset({"raw_log"}),
    steps=(
        Step(
            name="validate",
            summary="check the raw log against its contract and quarantine what breaks it",
            inputs=("raw_log",),
            output="clean_log",
            sections=("data",),
            code=("components/steps/validate.py", "data_contracts", "perscen/data/fields.py"),
        ),
        Step(
            name="split",
            summary="cut the clean log into leak-free windows per scenario",
            inputs=("clean_log",),
            output="splits",
            sections=("split",),
            code=("components/steps/split.py", *_DATA),
            versioned=True,
        ),
        Step(
            name="champion",
            summary="write down the release this run is compared with",
            inputs=(),
            output="champion",
            sections=("publish",),
            code=("components/steps/champion.py", *_REGISTRY, "perscen/retrieval/bundle.py"),
        ),
        Step(
            name="train",
            summary="train the two towers",
            inputs=("splits", "champion"),
            output="model",
            sections=("model", "train"),
            code=(
                "components/steps/train.py",
                *_DATA,
                *_MODEL,
                "perscen/training",
                "perscen/seeding.py",
                "perscen/evaluation/metrics.py",
                "perscen/retrieval/exact.py",
            ),
            accelerated=True,
            resumable=True,
        ),
        Step(
            name="index",
            summary="put every item's vector into one index per scenario",
            inputs=("model", "splits"),
            output="indexes",
            sections=("index",),
            code=(
                "components/steps/index.py",
                *_DATA,
                *_MODEL,
                "perscen/retrieval/exact.py",
                "perscen/retrieval/index.py",
            ),
            accelerated=True,
        ),
        Step(
            name="evaluate",
            summary="score candidate, champion and baselines through the index that will ship",
            inputs=("model", "indexes", "splits", "champion"),
            output="scores",
            sections=("evaluate",),
            code=(
                "components/steps/evaluate.py",
                *_DATA,
                *_MODEL,
                "perscen/retrieval",
                "perscen/evaluation",
            ),
        ),
        Step(
            name="gate",
            summary="judge every scenario on the scores and write the verdict",
            inputs=("scores", "model", "indexes", "clean_log"),
            output="verdict",
            sections=("gate",),
            code=("components/steps/gate.py", "perscen/evaluation"),
        ),
        Step(
            name="report",
            summary="make one self-contained page about the run",
            inputs=("clean_log", "splits", "champion", "model", "indexes", "scores", "verdict"),
            output="report",
            sections=(),
            code=("components/steps/report.py", "components/report", "perscen/diagnostics"),
        ),
        Step(
            name="publish",
            summary="release tower and indexes together, if the verdict allows it",
            inputs=("model", "indexes", "splits", "champion", "verdict", "report"),
            output="release",
            sections=("publish",),
            code=(
                "components/steps/publish.py",
                *_REGISTRY,
                "perscen/retrieval",
            ),
        ),
    ),
)
