"""Judge every scenario on the scores, and write the verdict."""

from __future__ import annotations

import logging

from components.runner import Task
from components.verdict_table import plain_table
from perscen.config import GateConfig
from perscen.evaluation.evidence import read_evidence
from perscen.evaluation.judge import judge
from perscen.evaluation.verdict import write_verdict
from perscen.manifests import VerdictManifest

logger = logging.getLogger(__name__)


def run(task: Task, *, gate: GateConfig) -> VerdictManifest:
    """Write ``verdict.json``; a refusal is a verdict too, and this step succeeds with it.

    Raises:
        ConfigError: ``gate.k`` was not evaluated.
        ArtifactError: The scores cannot be read, or compare different users.
    """
    scores, model, indexes, clean_log = (
        task.inputs[name] for name in ("scores", "model", "indexes", "clean_log")
    )
    evidence = read_evidence(
        scores.path,
        k=gate.k,
        scores=scores.manifest,
        model=model.manifest,
        indexes=indexes.manifest,
        clean_log=clean_log.manifest,
    )
    verdict = judge(evidence, gate)
    write_verdict(verdict, task.output)
    task.notes.update(decision=verdict.decision.value, table=plain_table(verdict))
    logger.info("verdict", extra={"decision": verdict.decision.value, "why": verdict.summary})
    return VerdictManifest(
        **task.stamp,
        model_digest=verdict.model_digest,
        indexes_digest=verdict.indexes_digest,
        decision=verdict.decision.value,
    )
