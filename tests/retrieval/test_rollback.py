"""Rolling back as the runbook says: the release before serves, and is compared with."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from components.adapters.registry import Registry
from perscen.errors import ArtifactError
from tests.conftest import ROOT
from tests.retrieval.world import DAY, make_world, released

pytestmark = [
    pytest.mark.medium,
    # MLflow's own tables use a loader strategy that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]


def roll_back(*, good: str, withdrawn: str) -> None:
    """Run the lines of the runbook with these versions."""
    runbook = (ROOT / "docs" / "how-to" / "runbook.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", runbook, re.DOTALL)
    lines, count = re.subn(
        r'good, withdrawn = "\d+", "\d+"', f"good, withdrawn = {good!r}, {withdrawn!r}", lines
    )
    assert count == 1
    exec(lines, {})


def test_after_a_rollback_the_next_day_is_judged_against_the_release_that_serves(
    world, tmp_path, tracking_uri
):
    registry = Registry("perscen")
    bad, next_day = (
        make_world(tmp_path / f"day {n}", seed=n, day=DAY + timedelta(days=n)) for n in (1, 2)
    )
    first = released(world)
    released(bad)
    registry._set_alias("champion", registry.release("1"))
    with pytest.raises(ArtifactError, match="the verdict was judged against"):
        released(next_day)  # what the tag of the runbook is for

    roll_back(good="1", withdrawn="2")

    assert registry.champion().bundle_id == first["bundle_id"]
    third = released(next_day)
    assert third["aliases"] == {"champion": "3", "previous": "1"}
    assert registry.release("3").previous_bundle_id == first["bundle_id"]
