"""Validate: the raw log through its data contract into clean rows by day and a quarantine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

from components.runner import Task
from data_contracts.raw_files import RawFiles
from data_contracts.validating import DATA_DOCS, Validation, validate_log
from perscen.config import DataConfig
from perscen.data.fields import ALIMAMA, KUAIRAND, FieldPlan
from perscen.errors import ContractBreach
from perscen.manifests import CleanLogManifest

REPORT: Final = "report.json"
_FIELDS: Final[dict[str, FieldPlan]] = {
    "kuairand-pure": KUAIRAND,
    "synthetic": KUAIRAND,
    "alimama": ALIMAMA,
}


def run(task: Task, *, data: DataConfig) -> CleanLogManifest:
    """Check the window's days and write the clean log.

    Raises:
        ContractBreach: The newest day, a feature table or every older day is beyond tolerance; only
            the report and the Data Docs are kept, in ``task.aftermath``.
        ConfigError: The logical date lies outside the log.
        ArtifactError: A raw file is missing, changed or unreadable.
    """
    _forget_last_breach(task.aftermath)
    raw_log = task.inputs["raw_log"]
    raw = RawFiles(raw_log.path, raw_log.manifest)
    found = validate_log(
        raw,
        task.output,
        logical_date=task.logical_date,
        window_days=data.window_days,
        trailing_days=data.trailing_days,
        utc_offset_hours=data.utc_offset_hours,
    )
    _write_report(found.report, task.output)
    if found.reasons:
        raise _breach(found, task)
    plan = _FIELDS[raw.manifest.source].model_dump_json(indent=2)
    (task.output / "fields.json").write_text(plan + "\n", encoding="utf-8")
    _pass_on_truth(raw, task.output)
    return _manifest(
        found, task, source=raw.manifest.source, utc_offset_hours=data.utc_offset_hours
    )


def _manifest(
    found: Validation, task: Task, *, source: str, utc_offset_hours: int
) -> CleanLogManifest:
    rows = found.report["rows"]
    task.notes.update(rows=rows["good"], quarantined=rows["quarantined"])
    return CleanLogManifest(
        **task.stamp,
        source=source,
        rows_in=rows["in"],
        rows_good=rows["good"],
        rows_quarantined=rows["quarantined"],
        rows_dropped=rows["dropped"],
        rule_counts={
            f"{rule['table']}.{rule['name']}": rule["broken"] for rule in found.report["rules"]
        },
        days=[*found.kept_days(), found.logical_date],
        excluded_days={day: "; ".join(t.reasons) for day, t in found.days.items() if t.reasons},
        utc_offset_hours=utc_offset_hours,
    )


def _breach(found: Validation, task: Task) -> ContractBreach:
    """Keep the report where it outlives the failed run, and say what broke."""
    task.aftermath.mkdir(parents=True, exist_ok=True)
    _write_report(found.report, task.aftermath)
    shutil.copytree(task.output / DATA_DOCS, task.aftermath / DATA_DOCS)
    path = task.aftermath / REPORT
    return ContractBreach(
        "\n".join(found.reasons),
        hint=f"see {path} and {task.aftermath / DATA_DOCS / 'index.html'}; "
        "the champion stays in place",
        report_path=path,
    )


def _write_report(report: dict[str, Any], folder: Path) -> None:
    text = json.dumps(report, indent=2, ensure_ascii=False)
    (folder / REPORT).write_text(text + "\n", encoding="utf-8")


def _forget_last_breach(aftermath: Path) -> None:
    shutil.rmtree(aftermath, ignore_errors=True)


def _pass_on_truth(raw: RawFiles, output: Path) -> None:
    """What is known to be true of a synthetic log goes with it."""
    for path in raw.files("truth"):
        (output / "truth").mkdir(exist_ok=True)
        shutil.copyfile(path, output / "truth" / path.name)
