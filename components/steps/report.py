"""Report: make one self-contained page about the run."""

from __future__ import annotations

from components.report.render import render
from components.report.view import page_of
from components.runner import Task
from perscen.manifests import ReportManifest


def run(task: Task) -> ReportManifest:
    """Write the page.

    Raises:
        ArtifactError: The verdict or the model cannot be read.
    """
    manifest = ReportManifest(**task.stamp)
    page = page_of(task.inputs, logical_date=task.logical_date)
    (task.output / manifest.page).write_text(render(page), encoding="utf-8")
    task.notes["page"] = manifest.page
    return manifest
