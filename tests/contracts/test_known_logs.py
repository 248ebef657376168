"""Logs whose truth is known: a synthetic log's planted defects, and the real slice's counts."""

from __future__ import annotations

import json
import os
from collections import Counter
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from components.steps import validate
from perscen.config import DataConfig
from perscen.data.kuairand import import_kuairand
from perscen.data.synthetic import import_synthetic
from tests.contracts.logs import task_for

LAST_DAY = date(2022, 5, 5)
RULE_OF = {
    "click_on_unknown_item": "item_known",
    "missing_user_id": "user_id_present",
    "missing_item_id": "video_id_present",
    "unknown_scenario": "scenario_known",
    "future_time": "time_plausible",
    "past_time": "time_plausible",
    "negative_play_time": "play_time_ms_in_range",
    "text_in_number": "play_time_ms_is_integer",
}
"""Which rule catches which planted defect; exact duplicates are dropped, not quarantined."""


@pytest.mark.medium
def test_exactly_the_planted_defects_are_caught(tmp_path):
    import_synthetic(tmp_path / "raw", seed=3, num_users=600)
    task = task_for(tmp_path / "raw", tmp_path / "clean_log", logical_date=LAST_DAY)
    manifest = validate.run(task, data=DataConfig(window_days=14))
    defects = pq.ParquetFile(task.output / "truth/defects.parquet").read().to_pylist()
    planted = Counter(
        (row["row_key"], RULE_OF[row["rule"]]) for row in defects if row["rule"] in RULE_OF
    )
    caught = Counter(
        (row["time_ms"], rule)
        for path in task.output.glob("quarantine/date=*/part-0.parquet")
        for row in pq.ParquetFile(path).read().to_pylist()
        for rule in row["broken_rules"]
    )
    assert caught == planted
    assert {row["rule"] for row in defects} == {*RULE_OF, "exact_duplicate"}
    assert manifest.rows_dropped == sum(row["rule"] == "exact_duplicate" for row in defects)
    assert manifest.rows_in == (
        manifest.rows_good + manifest.rows_quarantined + manifest.rows_dropped
    )
    assert not manifest.excluded_days
    page = (task.output / "data_docs" / "index.html").read_text(encoding="utf-8")
    assert str(LAST_DAY) in page


@pytest.mark.slow
def test_every_row_of_the_real_slice_is_legal_but_for_the_exact_duplicates(tmp_path):
    beside = Path(__file__).resolve().parents[3] / "shared" / "data" / "kuairand-pure"
    source = Path(os.environ.get("KUAIRAND_DIR", beside))
    if not source.is_dir():
        pytest.skip(f"the real slice is not in {source}; set KUAIRAND_DIR")
    import_kuairand(source, tmp_path / "raw")
    task = task_for(tmp_path / "raw", tmp_path / "clean_log", logical_date=LAST_DAY)
    manifest = validate.run(task, data=DataConfig())
    rows = (manifest.rows_in, manifest.rows_good, manifest.rows_quarantined, manifest.rows_dropped)
    assert rows == (185_061, 180_384, 0, 4_677)
    assert len(manifest.days) == 11
    report = json.loads((task.output / "report.json").read_text(encoding="utf-8"))
    assert all(check["passed"] for check in report["table_checks"])
    clicks: Counter[str] = Counter()
    for day in report["days"]:
        clicks.update(day["clicks"])
    assert {tab: clicks[tab] for tab in ("1", "4", "2", "0", "6", "9")} == {
        "1": 69_586,
        "4": 6_564,
        "2": 2_466,
        "0": 1_393,
        "6": 744,
        "9": 123,
    }
    tables = report["tables"]
    assert (tables["users"]["good"], tables["items"]["good"]) == (27_285, 7_583)
