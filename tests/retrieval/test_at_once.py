"""Several processes at one registry: publishers without a lease, and first downloads."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from threading import Thread

import pytest

from components.adapters.registry import Registry
from tests.retrieval.world import make_world, released

pytestmark = [
    pytest.mark.medium,
    # MLflow's own tables use a loader strategy that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]


def without_a_lease(patch: pytest.MonkeyPatch) -> None:
    """Let several publish at once, as a server does."""
    patch.setattr(Registry, "_lease", lambda _: nullcontext())


def test_without_a_lease_a_newer_day_that_was_overtaken_is_put_back(
    world, tomorrow, registry, monkeypatch
):
    for day in (world, tomorrow):
        day.find_champion()
        day.judge()
    without_a_lease(monkeypatch)
    real = Registry._set_alias

    def late(self, alias, release):
        with monkeypatch.context() as patch:
            patch.setattr(Registry, "_set_alias", real)
            tomorrow.publish()
        monkeypatch.setattr(Registry, "_set_alias", real)
        real(self, alias, release)

    monkeypatch.setattr(Registry, "_set_alias", late)
    assert world.publish()["moved"] is False
    assert registry.champion().logical_date == tomorrow.day


def test_without_a_lease_a_publisher_that_was_overtaken_by_an_older_day_puts_its_own_back(
    world, tomorrow, registry, monkeypatch
):
    older = released(world)["version"]
    tomorrow.find_champion()
    tomorrow.judge()
    without_a_lease(monkeypatch)
    real = Registry._mark_released

    def overtaken(self, release):
        real(self, release)
        self._client.set_registered_model_alias("perscen", "champion", older)

    monkeypatch.setattr(Registry, "_mark_released", overtaken)
    assert tomorrow.publish()["moved"] is True
    assert registry.champion().logical_date == tomorrow.day


def test_a_withdrawn_release_is_not_put_back(world, tomorrow, tmp_path, registry):
    good, bad = released(world)["version"], released(tomorrow)["version"]
    registry._client.set_registered_model_alias("perscen", "champion", good)
    again = make_world(tmp_path / "again", seed=2)
    assert released(again)["moved"] is True
    assert registry.champion().version not in (good, bad)


def test_two_first_downloads_of_one_release_do_not_collide(world, registry, monkeypatch):
    target = registry._cache / released(world)["bundle_id"]
    shutil.rmtree(registry._cache)
    real, found = Path.exists, []
    other = Thread(target=lambda: found.append(Registry("perscen").resolve("champion")))

    def begins_meanwhile(self):
        there = real(self)
        if self == target and other.ident is None:
            other.start()
            other.join(timeout=5)
        return there

    monkeypatch.setattr(Path, "exists", begins_meanwhile)
    found.append(registry.resolve("champion"))
    other.join()
    assert [bundle.path for bundle in found] == [target, target]
