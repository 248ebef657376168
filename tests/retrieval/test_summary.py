"""``perscen summary``: the release it shows is that of the verdict it shows."""

from __future__ import annotations

import shutil

import pytest
from click.testing import CliRunner, Result

from components.summary_command import summary
from perscen.config import PublishConfig
from perscen.errors import ArtifactError
from perscen.evaluation.verdict import Decision, Finding, Outcome, read_verdict, write_verdict
from tests.retrieval.world import World, released

pytestmark = [
    pytest.mark.medium,
    # MLflow's own tables use a loader strategy that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]

FOUND = Finding(gate="floor", scenario="s0", outcome=Outcome.PASS, message="above the floor")


def summarise(world: World) -> Result:
    return CliRunner().invoke(summary, ["--artifacts", str(world.root), "--k", "3"])


def test_the_release_of_the_verdict_is_shown_with_an_example(world, tracking_uri):
    released(world)
    told = summarise(world).output
    assert "Released: perscen version 1" in told
    assert "Top 3 for user u0" in " ".join(told.split())


def test_a_verdict_that_is_not_published_is_not_shown_with_the_release_of_another(
    world, tracking_uri
):
    released(world)
    world.judge(findings=(FOUND,))
    result = summarise(world)
    assert "Released" not in result.output
    assert isinstance(result.exception, ArtifactError)
    assert "not published yet" in result.exception.message
    assert "`publish`" in result.exception.hint


def test_a_promoting_verdict_without_a_release_says_to_publish(world, tracking_uri):
    released(world)
    shutil.rmtree(world.path("release"))
    result = summarise(world)
    assert isinstance(result.exception, ArtifactError)
    assert "`publish`" in result.exception.hint


def test_a_release_without_users_is_shown_without_an_example(world, tracking_uri):
    world.find_champion()
    world.judge()
    world.publish(PublishConfig(probes=2, include_users=False))
    result = summarise(world)
    assert result.exit_code == 0, result.exception
    assert "Released: perscen version 1" in result.output
    assert "Top 3" not in result.output


def test_the_verdicts_words_are_printed_as_they_are(world, tracking_uri):
    world.find_champion()
    world.judge(Decision.REFUSE)
    directory = world.path("verdict")
    verdict = read_verdict(directory).model_copy(update={"summary": "scenario [/feed] is worse"})
    write_verdict(verdict, directory)
    assert "scenario [/feed] is worse" in summarise(world).output
