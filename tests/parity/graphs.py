"""The graph as each orchestrator has it, read back from what it is given to run.

A command line is comparable once its places are names: CONFIG, DAY, and each artifact's own.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from components.pipeline import PIPELINE
from components.render import places
from dags._deployment import Deployment


@dataclass(frozen=True)
class Node:
    """One step: its command line and the steps it waits for."""

    argv: tuple[str, ...]
    after: frozenset[str]


def declared() -> dict[str, Node]:
    """The graph as the pipeline declares it."""
    names = {name: name for name in places()}
    return {
        step.name: Node(
            tuple(step.argv(config="CONFIG", logical_date="DAY", places=names)),
            PIPELINE.edges[step.name],
        )
        for step in PIPELINE.steps
    }


def named(argv: Iterator[str] | list[str], names: Mapping[str, str]) -> tuple[str, ...]:
    """A command line with its places replaced by their names."""
    return tuple(names.get(token, token) for token in argv)


def of_dvc(text: str) -> dict[str, Node]:
    """The graph of a ``dvc.yaml``."""
    stages = yaml.safe_load(text)["stages"]
    maker = {
        place: stage for stage, told in stages.items() for out in told["outs"] for place in out
    }
    names = {place: name for name, place in places().items()}
    names |= {"params.yaml": "CONFIG", "${run.logical_date}": "DAY"}
    return {
        stage: Node(
            named(told["cmd"].split(), names),
            frozenset(maker[place] for place in told["deps"] if place in maker),
        )
        for stage, told in stages.items()
    }


def of_kubeflow(text: str) -> dict[str, Node]:
    """The graph of a compiled Kubeflow pipeline."""
    spec = next(yaml.load_all(text, yaml.CSafeLoader))
    nodes = {}
    for name, task in spec["root"]["dag"]["tasks"].items():
        label = spec["components"][task["componentRef"]["name"]]["executorLabel"]
        container = spec["deploymentSpec"]["executors"][label]["container"]
        artifacts = task["inputs"].get("artifacts", {})
        # What a step calls its input must be what the step before calls its output.
        for local, source in artifacts.items():
            assert source["taskOutputArtifact"]["outputArtifactKey"] == local
        makers = {source["taskOutputArtifact"]["producerTask"] for source in artifacts.values()}
        assert makers == set(task.get("dependentTasks", ()))
        nodes[name] = Node(tuple(_argv_in(container, task["inputs"])), frozenset(makers))
    return nodes


def _argv_in(container: Mapping[str, Any], inputs: Mapping[str, Any]) -> Iterator[str]:
    """Yield the command line that the source of a component puts together."""
    function = container["args"][container["args"].index("--function_to_execute") + 1]
    tree = ast.parse(container["command"][-1])
    body = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function)
    argv = next(
        n.value
        for n in body.body
        if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "argv"
    )
    assert isinstance(argv, ast.List)
    for token in argv.elts:
        match token:
            case ast.Constant(value=str(value)):
                yield value
            case ast.Name(id="day"):
                yield "DAY"
            case ast.Name(id=parameter):
                source = inputs["parameters"][parameter]["componentInputParameter"]
                assert source == parameter
                yield "CONFIG" if parameter == "config" else parameter
            case ast.Attribute(value=ast.Name(id=artifact), attr="path"):
                yield artifact
            case _:
                raise AssertionError(f"{ast.unparse(token)} is no part of a command line")


TELL_AIRFLOW: Final = """\
import json, sys
from pathlib import Path
from dags._deployment import read_deployment
from dags.perscen_daily import build

for file in map(Path, sys.argv[1:]):
    told = {}
    for task in build(read_deployment(file)).tasks:
        argv = getattr(task, "argv", [])
        if hasattr(task, "pod_template_dict"):
            argv = task.pod_template_dict["spec"]["containers"][0]["args"]
        told[task.task_id] = {"argv": list(argv), "after": sorted(task.upstream_task_ids)}
    file.with_suffix(".json").write_text(json.dumps(told))
"""
"""Airflow is asked in a process of its own: imported, it takes over logging and warnings."""


def of_airflow(told: Mapping[str, Any], deployment: Deployment) -> dict[str, Node]:
    """The graph of the daily DAG, from what ``TELL_AIRFLOW`` wrote."""
    found = places(root=f"{deployment.run_root}/{{{{ ds }}}}", raw_log=deployment.raw_log)
    names = {place: name for name, place in found.items()}
    names |= {deployment.config: "CONFIG", "{{ ds }}": "DAY"}
    # The sensor that waits for the day's logs is no step.
    steps = {step.name for step in PIPELINE.steps}
    return {
        name: Node(named(task["argv"], names), frozenset(task["after"]) & steps)
        for name, task in told.items()
        if name in steps
    }
