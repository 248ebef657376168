"""The graph as DVC reads it: ``dvc.yaml`` is made from ``components.pipeline``, never by hand."""

from __future__ import annotations

from typing import Any, Final

import yaml

from components.pipeline import PIPELINE, Pipeline, Step

RAW_LOG: Final = "data/raw"
ARTIFACTS: Final = "artifacts"
_HEADER: Final = """\
# Rendered from components/pipeline.py by `make render`; edit the graph there.
"""
_METRICS: Final = [f"{ARTIFACTS}/scores/metrics.json"]
_PLOTS: Final = [
    {f"{ARTIFACTS}/model/plots/loss.json": {"x": "epoch", "y": "loss", "title": "Training loss"}},
    {
        f"{ARTIFACTS}/model/plots/recall.json": {
            "x": "epoch",
            "y": "recall",
            "title": "Validation recall per scenario",
            "template": "linear",
        }
    },
    {
        f"{ARTIFACTS}/scores/plots/recall.json": {
            "x": "recall",
            "y": "model",
            "title": "Test recall",
            "template": "bar_horizontal",
        }
    },
]


def places(
    pipeline: Pipeline = PIPELINE, *, root: str = ARTIFACTS, raw_log: str = RAW_LOG
) -> dict[str, str]:
    """Return where each artifact of a run lies: by default a laptop's, in the repository.

    Args:
        pipeline: Whose artifacts.
        root: A directory or object store address; a scheduler gives each day its own,
            ``RUN_ROOT/<logical date>``.
        raw_log: Where the raw log lies; it belongs to no run.
    """
    return {"raw_log": raw_log, **{step.output: f"{root}/{step.output}" for step in pipeline.steps}}


def under_torchrun(argv: list[str], *, processes: int) -> list[str]:
    """Return a step's command line with its work shared by processes of one machine.

    Of all steps ``train`` alone can be shared; with one process nothing is changed.

    Args:
        argv: What :meth:`Step.argv` returns.
        processes: How many; on GPUs one for each.
    """
    if processes == 1:
        return list(argv)
    python, *rest = argv
    shared = ["-m", "components.torchrun", "--standalone", "--nproc-per-node", str(processes)]
    return [python, *shared, *rest]


def dvc_yaml(pipeline: Pipeline = PIPELINE) -> str:
    """Return the text of ``dvc.yaml``."""
    stages = {step.name: _stage(step) for step in pipeline.steps}
    tree = {"stages": stages, "metrics": _METRICS, "plots": _PLOTS}
    return _HEADER + yaml.safe_dump(tree, sort_keys=False, width=100)


def _stage(step: Step) -> dict[str, Any]:
    where = places()
    argv = step.argv(config="params.yaml", logical_date="${run.logical_date}", places=where)
    return {
        "desc": step.summary,
        "cmd": " ".join(argv),
        "deps": [*sorted(step.watched), *(where[name] for name in step.inputs)],
        "params": ["run.logical_date", *step.sections],
        # A step swaps its output in whole; what the last run left stays until then.
        "outs": [{where[step.output]: {"persist": True}}],
    }
