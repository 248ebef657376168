"""The graph refuses what cannot run, and has one command line per step."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

from components.pipeline import PIPELINE, Pipeline, PipelineError, Step
from components.render import places
from perscen.config import Config
from tests.conftest import ROOT


def step(name: str, inputs: tuple[str, ...], output: str) -> Step:
    return Step(name=name, summary="", inputs=inputs, output=output, sections=(), code=())


@pytest.mark.parametrize(
    ("steps", "match"),
    [
        ((step("a", (), "x"), step("b", (), "x")), "made by two steps: x"),
        ((step("a", ("y",), "x"),), "a needs y, which no step makes"),
        ((step("a", ("y",), "x"), step("b", ("x",), "y")), "wait for each other"),
    ],
    ids=["two makers", "no maker", "cycle"],
)
def test_a_graph_that_cannot_run_is_refused(steps, match):
    with pytest.raises(PipelineError, match=match):
        Pipeline(steps=steps, external=frozenset())


def test_edges_follow_from_artifact_names():
    assert PIPELINE.edges["gate"] == {"evaluate", "train", "index", "validate"}
    assert PIPELINE.edges["publish"] >= {"gate", "report"}


def test_a_step_has_one_command_line():
    argv = PIPELINE["gate"].argv(
        config="params.yaml", logical_date="2022-05-05", places=places(PIPELINE)
    )
    assert argv == [
        "python",
        "-m",
        "components",
        "gate",
        "--config",
        "params.yaml",
        "--logical-date",
        "2022-05-05",
        "--in",
        "scores",
        "artifacts/scores",
        "--in",
        "model",
        "artifacts/model",
        "--in",
        "indexes",
        "artifacts/indexes",
        "--in",
        "clean_log",
        "artifacts/clean_log",
        "--out",
        "verdict",
        "artifacts/verdict",
    ]


@pytest.mark.medium
@pytest.mark.parametrize("name", [s.name for s in PIPELINE.steps])
def test_a_step_sees_exactly_the_sections_it_declares(name):
    parameters = inspect.signature(import_module(f"components.steps.{name}").run).parameters
    keywords = {p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY}
    assert keywords == set(PIPELINE[name].sections)
    assert keywords <= set(Config.model_fields)


@pytest.mark.parametrize("name", [s.name for s in PIPELINE.steps])
def test_every_file_a_step_watches_is_there(name):
    assert [path for path in PIPELINE[name].watched if not (ROOT / path).exists()] == []
