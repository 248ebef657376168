"""How long the contract takes: 1.5 million rows through the predicates and Great Expectations.

Run ``python -m bench.contracts [ROWS]``. Prints seconds of each half, their ratio, and the ratio of
both together to the aim.
"""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.report import Result
from data_contracts.checking import check
from data_contracts.contract import load_contract
from data_contracts.parsing import Surroundings
from data_contracts.suites import SecondOpinion

DAY = date(2022, 5, 5)
NUM_USERS, NUM_ITEMS = 25_000, 7_500
AIM_S = 30.0
"""For 1.5 million rows and 20 rules."""


def run(num_rows: int = 1_500_000) -> list[Result]:
    """Print the table and return the seconds of both halves together."""
    contract = load_contract("kuairand_log").table
    rows = _rows(num_rows)
    around = Surroundings(
        utc_offset_hours=8,
        references={
            "users": pa.table({"user_id": _texts(np.arange(NUM_USERS))}),
            "items": pa.table({"video_id": _texts(np.arange(NUM_ITEMS))}),
        },
        partition_days=np.full(num_rows, (DAY - date(1970, 1, 1)).days),
    )
    started = time.perf_counter()
    checked = check(rows, contract, around)
    predicates_s = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        opinion = SecondOpinion(Path(folder))
        import_s = time.perf_counter() - started
        started = time.perf_counter()
        opinion.confirm(
            contract, checked.distinct_frame, batch="bench", rule_counts=checked.rule_counts
        )
        suite_s = time.perf_counter() - started
    total_s = predicates_s + suite_s
    aim_s = AIM_S * num_rows / 1_500_000
    print(f"{num_rows:,} rows x {len(contract.rules)} rules, {len(contract.columns)} columns")
    print(f"parse + predicates   {predicates_s:6.1f} s  {num_rows / predicates_s:12,.0f} rows/s")
    print(f"great expectations   {suite_s:6.1f} s  {suite_s / predicates_s:6.2f} x the predicates")
    print(f"import, once         {import_s:6.1f} s")
    print(f"together             {total_s:6.1f} s  {total_s / aim_s:6.2f} x the aim for 20 rules")
    print(f"quarantined {checked.quarantined.num_rows:,}, dropped {checked.dropped:,}")
    what = f"contract of {num_rows:,} rows x {len(contract.rules)} rules"
    return [Result(what, total_s, aim_s, "s")]


def _rows(num_rows: int) -> pa.Table:
    """Return a log of one day in the official columns, one row in a thousand with a defect."""
    rng = np.random.default_rng(0)
    contract = load_contract("kuairand_log").table
    midnight_ms = (DAY - date(1970, 1, 1)).days * 86_400_000 - 8 * 3_600_000
    columns = {
        column.name: _texts(rng.integers(0, 2, num_rows)) for column in contract.file_columns
    }
    columns |= {
        "user_id": _texts(rng.integers(0, NUM_USERS, num_rows)),
        "video_id": _texts(rng.integers(0, NUM_ITEMS + 5, num_rows)),
        "date": _texts(np.full(num_rows, int(f"{DAY:%Y%m%d}"))),
        "time_ms": _texts(midnight_ms + rng.integers(0, 86_400_000, num_rows)),
        "play_time_ms": _texts(rng.integers(-50, 100_000, num_rows)),
        "duration_ms": _texts(rng.integers(0, 100_000, num_rows)),
        "tab": _texts(rng.integers(0, 15, num_rows)),
    }
    return pa.table(columns)


def _texts(values: np.ndarray) -> pa.Array:
    return pa.array(values).cast(pa.string())


if __name__ == "__main__":
    run(*(int(argument) for argument in sys.argv[1:2]))
