"""A verdict as plain text: what a message to people quotes, a line per scenario in columns."""

from __future__ import annotations

import pytest

from components.verdict_table import plain_table
from perscen.evaluation.judge import judge
from tests.evaluation.test_gates import CONFIG, evidence


def test_the_plain_table_has_a_line_per_scenario_in_columns_and_nothing_a_terminal_reads():
    verdict = judge(evidence(), CONFIG)
    title, head, rule, *rows = plain_table(verdict).splitlines()
    assert title == f"Verdict for {verdict.logical_date}: {verdict.decision.value}"
    assert [row.split()[0] for row in rows] == [s.scenario for s in verdict.scenarios]
    for name, value in (("users", f"{verdict.scenarios[0].num_users:,}"), ("outcome", "PASS")):
        # Numbers end where their column's name ends, words begin where it begins.
        end = head.index(name) + (len(name) if name == "users" else len(value))
        assert rows[0][:end].endswith(value)
    assert set(rule.strip()) == {"─"}
    assert "\x1b" not in plain_table(verdict)


def test_a_missing_number_is_a_dash():
    verdict = judge(evidence(), CONFIG)
    unknown = verdict.scenarios[0].model_copy(update={"margin": None, "difference": None})
    told = plain_table(verdict.model_copy(update={"scenarios": (unknown,)}))
    assert told.splitlines()[-1].count("–") == 2


@pytest.mark.parametrize("name", ["[a]x", "[/feed]", ":smile:"])
def test_a_scenarios_raw_name_is_printed_as_it_is(name):
    verdict = judge(evidence(), CONFIG)
    named = verdict.scenarios[0].model_copy(update={"scenario": name})
    told = plain_table(verdict.model_copy(update={"scenarios": (named,)}))
    assert told.splitlines()[-1].split()[0] == name
