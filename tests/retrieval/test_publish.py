"""Publishing against a real MLflow on SQLite: what serves is whole, or it did not change."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from components.adapters.addresses import resolve_bundle
from components.adapters.registry import Registry
from components.retrieve_command import retrieve
from perscen.config import PublishConfig
from perscen.errors import (
    ArtifactError,
    ConfigError,
    PerscenError,
    ReleaseRefused,
    ServiceUnavailable,
)
from perscen.evaluation.verdict import Decision
from perscen.retrieval.retriever import Retriever
from tests.retrieval.world import DAY, failing, make_world, released

pytestmark = [
    pytest.mark.medium,
    # MLflow's own tables use a loader strategy that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]


def champion_retriever(registry):
    """The champion as a consumer opens it: every byte checked, probes asked."""
    return Retriever.open(resolve_bundle("models:/perscen@champion").path)


def test_what_was_published_answers_as_the_model_that_was_judged(world, registry):
    release = released(world)
    assert release["aliases"] == {"champion": "1", "previous": None}
    retriever = champion_retriever(registry)
    assert retriever.manifest.bundle_id == release["bundle_id"]
    assert retriever.manifest.lineage.model_digest == world.open("model").manifest.digest
    assert len(retriever.retrieve("u1", "s0", 5)) == 5
    assert (retriever._bundle.path / "report" / "index.html").read_text() == "<p>page</p>"


def test_the_next_day_is_compared_with_today_and_takes_its_place(world, tomorrow, registry):
    first, second = released(world), released(tomorrow)
    against = tomorrow.open("champion").manifest
    assert (against.version, against.bundle_id) == ("1", first["bundle_id"])
    assert against.champion_date == world.day
    assert second["aliases"] == {"champion": "2", "previous": "1"}
    assert champion_retriever(registry).manifest.lineage.previous_bundle_id == first["bundle_id"]


def test_the_first_day_has_no_champion(world, registry):
    manifest = world.find_champion()
    assert (manifest.version, manifest.bundle_id, manifest.champion_date) == (None, None, None)


def test_the_champion_artifact_is_the_same_however_often_it_is_made(world, tomorrow, registry):
    released(world)
    assert tomorrow.find_champion().digest == tomorrow.find_champion().digest
    assert not (tomorrow.path("champion") / "bundle" / "report").exists()


def test_where_a_release_comes_from_is_a_tag_and_no_part_of_what_it_is(
    world, registry, tmp_path, monkeypatch
):
    monkeypatch.setenv("PERSCEN_REVISION", "abc123")
    (world.path("splits") / "run.json").write_text('{"dvc": "d41d.dir"}')
    first = released(world)
    assert registry.release("champion").splits_dvc == "d41d.dir"
    assert registry.release("champion").revision == "abc123"
    # Made by `dvc repro` from another revision, it is the same release.
    (world.path("splits") / "run.json").unlink()
    monkeypatch.setenv("PERSCEN_REVISION", "def456")
    assert world.publish()["bundle_id"] == first["bundle_id"]


def test_a_release_without_known_origin_has_no_tags_of_it(world, registry, monkeypatch):
    monkeypatch.setattr("components.steps.publish.revision", lambda: None)
    released(world)
    release = registry.release("champion")
    assert (release.splits_dvc, release.revision) == (None, None)


def test_publishing_the_same_bundle_twice_changes_nothing(world, registry):
    first = released(world)
    assert world.publish() == first | {"moved": False}
    assert len(registry.releases()) == 1


def test_a_backfill_is_a_release_of_its_day_and_moves_nothing(world, tomorrow, registry):
    newest = released(tomorrow)
    backfill = released(world)
    assert backfill["moved"] is False
    assert backfill["aliases"]["champion"] == newest["version"]
    assert champion_retriever(registry).manifest.bundle_id == newest["bundle_id"]
    assert registry.newest_before(tomorrow.day).bundle_id == backfill["bundle_id"]


def test_the_same_day_run_again_with_another_model_replaces_its_release(world, tmp_path, registry):
    released(world)
    again = make_world(tmp_path / "again", seed=2)
    assert released(again)["aliases"] == {"champion": "2", "previous": "1"}
    assert again.open("champion").manifest.bundle_id is None


def test_a_refusal_says_why_per_scenario_and_registers_nothing(world, registry):
    world.find_champion()
    world.judge(Decision.REFUSE, findings=(failing("s1", "recall 0.01 is under 0.05"),))
    with pytest.raises(ReleaseRefused) as error:
        world.publish()
    assert error.value.reasons == {"s1": ("recall 0.01 is under 0.05",)}
    assert registry.releases() == []


@pytest.mark.parametrize(
    ("replaced", "message"),
    [("model", "verdict judges model"), ("indexes", "verdict judges indexes")],
)
def test_a_verdict_on_something_else_lets_nothing_through(
    world, tmp_path, registry, replaced, message
):
    world.find_champion()
    world.judge()
    shutil.rmtree(world.path(replaced))
    other = make_world(tmp_path / "other", seed=1)
    shutil.copytree(other.path(replaced), world.path(replaced))
    with pytest.raises(ArtifactError, match=message):
        world.publish()
    assert registry.releases() == []


def test_indexes_of_another_model_are_refused_even_with_a_verdict_on_both(
    world, tmp_path, registry
):
    shutil.rmtree(world.path("indexes"))
    other = make_world(tmp_path / "other", seed=1)
    shutil.copytree(other.path("indexes"), world.path("indexes"))
    world.find_champion()
    world.judge()
    with pytest.raises(ArtifactError, match="indexes hold items of model"):
        world.publish()


def test_a_champion_that_moved_since_the_verdict_stops_the_release(
    world, tomorrow, tmp_path, registry
):
    released(world)
    tomorrow.find_champion()
    tomorrow.judge()
    released(make_world(tmp_path / "again", seed=2))
    with pytest.raises(ArtifactError, match="'champion' points to version 2 of 2022-05-05"):
        tomorrow.publish()
    assert registry.champion().version == "2"
    assert len(registry.releases()) == 2


def test_a_champion_that_moves_while_publishing_stops_the_release(
    world, tomorrow, tmp_path, registry, monkeypatch
):
    released(world)
    tomorrow.find_champion()
    tomorrow.judge()
    again, real = make_world(tmp_path / "again", seed=2), Registry.verify

    def late(self, release):
        with monkeypatch.context() as patch:
            patch.setattr(Registry, "verify", real)
            released(again)
        return real(self, release)

    monkeypatch.setattr(Registry, "verify", late)
    with pytest.raises(ArtifactError, match="the alias was not moved"):
        tomorrow.publish()
    assert registry.champion().logical_date == world.day


ACTIONS = [
    "create_experiment",
    "create_run",
    "log_artifacts",
    "set_terminated",
    "create_registered_model",
    "create_model_version",
    "set_registered_model_alias",
    "set_model_version_tag",
]
ALWAYS_RUN = {("log_artifacts", "after"), ("set_registered_model_alias", "before")}
KILLS = [
    pytest.param(action, when, marks=[] if (action, when) in ALWAYS_RUN else pytest.mark.slow)
    for action in ACTIONS
    for when in ("before", "after")
]


class Killed(BaseException):
    """The publisher's process ends here."""


@pytest.mark.parametrize(("action", "when"), KILLS)
def test_a_publisher_killed_at_any_action_leaves_a_whole_champion_and_can_be_run_again(
    world, tomorrow, registry, monkeypatch, action, when
):
    first = released(world)
    if action in {"create_experiment", "create_registered_model"}:
        # Done once only: there, it is the first release that dies.
        registry._client.rename_registered_model("perscen", "elsewhere")
        experiment = registry._client.get_experiment_by_name("perscen-releases")
        registry._client.rename_experiment(experiment.experiment_id, "elsewhere")
        first = None
    tomorrow.find_champion()
    tomorrow.judge()
    real, calls = getattr(type(registry._client), action), []

    def dies(*args, **kwargs):
        calls.append(action)
        if when == "before":
            raise Killed
        real(*args, **kwargs)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(type(registry._client), action, dies)
        with pytest.raises(Killed):
            tomorrow.publish()
    assert calls == [action]
    serving = registry.champion()
    allowed = {None} if first is None else {first["bundle_id"]}
    assert (serving.bundle_id if serving else None) in allowed
    if serving:
        champion_retriever(registry)
    second = tomorrow.publish()
    assert champion_retriever(registry).manifest.bundle_id == second["bundle_id"]
    assert second["aliases"]["previous"] == (first["version"] if first else None)
    assert registry.newest_before(tomorrow.day + timedelta(days=1)).version == second["version"]


def test_a_publisher_killed_after_the_alias_moved_has_released(
    world, tomorrow, registry, monkeypatch
):
    released(world)
    tomorrow.find_champion()
    tomorrow.judge()
    real = Registry._mark_released

    def dies(self, release):
        if release.version == "2":
            raise Killed
        real(self, release)

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "_mark_released", dies)
        with pytest.raises(Killed):
            tomorrow.publish()
    assert registry.newest_before(tomorrow.day + timedelta(days=1)).version == "2"
    assert tomorrow.publish()["aliases"] == {"champion": "2", "previous": "1"}


def test_a_stored_copy_that_went_bad_is_never_promoted(world, tomorrow, registry, monkeypatch):
    released(world)
    real = Registry.register

    def spoils(self, bundle, **tags):
        release = real(self, bundle, **tags)
        stored = Path(urlsplit(release.source).path)
        weights = next(stored.rglob("weights.safetensors"))
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        return release

    monkeypatch.setattr(Registry, "register", spoils)
    with pytest.raises(ArtifactError, match="has changed"):
        released(tomorrow)
    assert registry.champion().version == "1"


def test_a_spoilt_cache_is_downloaded_again(world, registry):
    released(world)
    cached = champion_retriever(registry)._bundle.path
    (cached / "bundle.json").write_text("{}")
    assert champion_retriever(registry).manifest.lineage.logical_date == DAY


def test_stored_files_that_are_gone_are_an_artifact_error(world, registry):
    released(world)
    shutil.rmtree(registry._cache)
    shutil.rmtree(registry._database.with_name("mlartifacts"))
    with pytest.raises(ArtifactError, match="nothing is stored"):
        champion_retriever(registry)


@pytest.mark.parametrize(
    "address",
    ["models:/perscen@nobody", "models:/perscen/9", "models:/unknown@champion", "models:/perscen"],
)
def test_an_address_of_nothing_is_a_setting_that_is_wrong(world, registry, address):
    released(world)
    with pytest.raises(ConfigError):
        resolve_bundle(address)


def test_a_version_and_a_directory_are_addresses_too(world, registry):
    release = released(world)
    bundle = resolve_bundle(f"models:/perscen/{release['version']}")
    assert resolve_bundle(str(bundle.path)).manifest.bundle_id == release["bundle_id"]


def test_a_registry_that_is_down_can_be_tried_again(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    registry = Registry("perscen", tracking_uri="http://127.0.0.1:9", cache=tmp_path)
    with pytest.raises(ServiceUnavailable, match=r"list the releases|read the alias"):
        registry.newest_before(DAY)


@pytest.mark.parametrize("content", [None, b"not a database at all"])
def test_a_tracking_address_that_can_never_work_is_said_at_once(tmp_path, content):
    path = tmp_path / ("missing/mlflow.db" if content is None else "mlflow.db")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"cannot be made|not an SQLite database"):
        Registry("perscen", tracking_uri=f"sqlite:///{path}")


def test_a_version_of_somebody_else_is_passed_over_and_never_served(world, registry):
    registry._client.create_registered_model("perscen")
    registry._client.create_model_version("perscen", "file:///tmp/theirs")
    assert registry.releases() == []
    with pytest.raises(ArtifactError, match="no release of ours"):
        resolve_bundle("models:/perscen/1")


def test_a_name_that_mlflow_cannot_have_is_said(tracking_uri):
    with pytest.raises(ConfigError, match="cannot name a registered model"):
        Registry("a/b")


def test_the_command_prints_a_table_or_json(world, registry):
    released(world)
    table = CliRunner().invoke(retrieve, ["--user", "u1", "--scenario", "s0", "--k", "3"])
    assert table.exit_code == 0, table.output
    assert "release of 2022-05-05" in table.output
    arguments = ["--user", "nobody", "--scenario", "s1", "--k", "3", "--json"]
    record = json.loads(CliRunner().invoke(retrieve, arguments).output)
    assert len(record["items"]) == 3


@pytest.mark.parametrize("user", ["[a]x", "[/a]", ":smile:"])
def test_the_command_prints_raw_ids_as_they_are(world, registry, user):
    released(world)
    result = CliRunner().invoke(retrieve, ["--user", user, "--scenario", "s0"])
    assert f"user {user} in scenario s0" in " ".join(result.output.split())


def test_the_command_names_the_scenarios_there_are(world, registry):
    released(world)
    result = CliRunner().invoke(retrieve, ["--user", "u1", "--scenario", "s9"])
    assert isinstance(result.exception, PerscenError)
    assert "s0, s1" in result.exception.hint


def test_a_release_without_users_is_published_and_probed(world, registry):
    world.find_champion()
    world.judge()
    world.publish(PublishConfig(probes=2, include_users=False))
    with pytest.raises(ConfigError, match="published without users"):
        champion_retriever(registry).retrieve("u0", "s0", 3)
