"""What stands on the page, and what never does."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from components.report.inside import graphs_section, preferences_section
from components.report.verdict import verdict_view
from perscen.evaluation.verdict import read_verdict
from tests.report.artifacts import make_splits, write_run
from tests.report.run import SCENARIOS, Run

pytestmark = pytest.mark.medium

MakePage = Callable[[Run], Path]


def words_of(page: Path) -> str:
    """Return the page's visible text on one line."""
    body = re.sub(r"<(style|svg).*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"[ \n]+", " ", html.unescape(re.sub(r"<[^>]+>", " ", body)))


def test_the_verdict_comes_first_with_its_reasons(page: Path):
    words = words_of(page)
    verdict, rest = words.split("Recall per scenario", 2)[1:]
    assert "The candidate may be released" in verdict
    assert "No scenario is worse than its margin" in verdict
    assert "263 users cannot tell a loss of 1.19 points from chance." in verdict
    assert "Policy ship_and_watch" in verdict
    assert "against the champion +0.31 (−0.19 to +0.81)" in verdict
    assert "Lineage" in rest


def test_recall_is_set_against_the_best_possible_where_that_is_known(page: Path):
    assert "The candidate reaches 71\u202f% of it in scenario 1," in words_of(page)


def test_codes_that_scenarios_share_and_gates_that_are_shut_are_told(page: Path):
    words = words_of(page)
    shared = words.split("Codes that scenarios share")[1].split("Feature graphs")[0]
    assert "On its codes Divergence By chance" in shared
    assert "spreads around its mean by" in words
    gates = words.split("Share of gates within 0.1 of shut and of open")[1]
    assert re.match(r" Scenario Layer 1 Layer 2 Layer 3 Final 1 [\d.]+\u202f% shut", gates)


def test_the_same_run_gives_the_same_bytes(page: Path, make_page: MakePage):
    assert make_page(Run()).read_bytes() == page.read_bytes()


def test_texts_of_the_log_are_escaped_everywhere(page: Path):
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(0)&lt;/script&gt;") > 10


def test_no_user_of_the_splits_is_on_the_page(page: Path):
    splits = make_splits()
    ids = {*splits.users.ids[2:].tolist(), *splits.test.user_id.tolist()}
    text = page.read_text(encoding="utf-8")
    assert not [user for user in ids if user in text]


def test_the_page_is_small_and_refers_to_nothing_outside(page: Path):
    text = page.read_text(encoding="utf-8")
    assert len(text.encode()) < 3_000_000
    places = re.findall(r"""(?:src|href|action)=["']([^"']*)|url\(([^)]*)\)""", text)
    outside = [a or b for a, b in places if not (a or b).startswith(("#", "data:"))]
    assert outside == []


def test_every_digest_is_there_in_full(page: Path):
    text = page.read_text(encoding="utf-8")
    for name in ("clean_log", "splits", "model", "indexes", "scores", "verdict"):
        manifest = json.loads((page.parent.parent / name / "manifest.json").read_text())
        assert f'title="{manifest["digest"]}"' in text


def test_a_first_release_without_codebook_or_truth_says_what_is_missing(make_page: MakePage):
    words = words_of(make_page(Run(champion=False, truth=False, codebook=0, fusion="direct")))
    assert "The candidate may be released as the first champion" in words
    assert "against scenario popularity" in words
    assert "There is no champion yet, so none is drawn." in words
    assert "The best possible recall is known for synthetic logs only." in words
    assert "has no codebook: nothing to count." in words
    assert "This model fuses its layers without gated units." in words


def test_a_refusal_says_which_scenario_and_that_the_champion_stays(tmp_path: Path):
    places = write_run(tmp_path, Run(refused=True))
    view = verdict_view(read_verdict(places["verdict"]), scenarios=("4", "1", "2"), facts=())
    assert view.headline == "The candidate is refused; the champion stays in place"
    assert [row.scenario for row in view.rows] == ["4", "1", "2", SCENARIOS[3]]
    assert [row.outcome for row in view.rows] == ["FAIL", "PASS", "INSUFFICIENT", "WATCH"]
    assert view.rows[0].reasons == (
        "Recall is 2.10 points below the champion's; the margin is 1.60.",
    )


def test_a_family_without_graphs_says_so():
    graphs = graphs_section(None, family="dssm")
    preferences = preferences_section(None, scenarios=("1",), family="dssm")
    assert graphs.missing == "The model (dssm) has no feature graph to show."
    assert preferences.missing == "The model (dssm) has no scenario preference to show."
