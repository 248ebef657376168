"""What all tests share: quiet libraries, one thread each, no skip where skips are forbidden."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

for name, value in {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "False",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MPLBACKEND": "agg",
    "OMP_NUM_THREADS": "1",
}.items():
    os.environ[name] = value

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def kuairand_dir() -> Path:
    """The real slice of KuaiRand-Pure; skips where it is absent."""
    place = Path(os.environ.get("KUAIRAND_DIR", ROOT.parent / "shared/data/kuairand-pure"))
    if not place.is_dir():
        pytest.skip(f"no real logs at {place}; set KUAIRAND_DIR")
    return place


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Turn a skip into a failure when skips are forbidden; only GPU tests may skip then."""
    report = yield
    forbidden = os.environ.get("PERSCEN_FORBID_SKIPS") == "1" and "gpu" not in item.keywords
    if forbidden and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where skips are forbidden: {report.longrepr}"
    return report
