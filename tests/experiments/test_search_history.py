"""The file of a search: what is in it after a kill, and which files are refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from sqlalchemy import Engine, event

from perscen.config import OptimConfig, TrainConfig
from perscen.errors import ArtifactError, ConfigError, StorageFull
from perscen.experiments.search_history import History, Training, open_history
from perscen.experiments.search_space import Choice, Range, Space
from perscen.models.config import DssmConfig
from perscen.recipes import Recipe

pytestmark = pytest.mark.medium

RECIPE = Recipe(DssmConfig(widths=(4,)), TrainConfig(optim=OptimConfig(lr=1e-3)))
SPACE = Space(
    RECIPE,
    {
        "train.optim.lr": Range(low=1e-4, high=1e-1, log=True),
        "model.widths": Choice(choices=((4,), (8, 4))),
    },
)
OTHER = Space(RECIPE, {"model.widths": Choice(choices=((4,), (16,)))})
OF = {"splits": "abc", "recipe": "tiny"}


class Killed(BaseException):
    pass


@dataclass
class Study:
    """A search's file, and what is done with it."""

    path: Path

    @contextmanager
    def history(self, space: Space = SPACE, **of: str) -> Iterator[History]:
        with open_history(self.path, space, of=OF | of) as history:
            yield history

    def next_settings(self, space: Space = SPACE, **of: str) -> dict[str, object]:
        with self.history(space, **of) as history:
            trial = history.next_trial(seed=0)
            assert trial is not None
            return space.settings(trial.params)

    def end_one(self) -> dict[str, object]:
        with self.history() as history:
            trial = history.next_trial(seed=0)
            assert trial is not None
            settings = SPACE.settings(trial.params)
            recall = {"s0": 0.1 + 0.01 * trial.number}
            history.end_trial(trial, Training(trial.number, 0, "finished", settings, recall))
        return settings

    def bytes_beside(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.path.parent.iterdir()}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "tune.db")


@pytest.fixture
def kill_at_setting(monkeypatch: pytest.MonkeyPatch):
    """Return a context in which the n-th setting of a trial is never stored."""
    suggest = optuna.Trial._suggest

    @contextmanager
    def killing(number: int) -> Iterator[None]:
        stored = []

        def suggest_or_die(*args: object) -> object:
            stored.append(args)
            if len(stored) == number:
                raise Killed
            return suggest(*args)

        with monkeypatch.context() as patch:
            patch.setattr(optuna.Trial, "_suggest", suggest_or_die)
            yield

    return killing


@contextmanager
def full_disk(*, pages: int) -> Iterator[None]:
    """Let no database grow beyond so many pages: SQLite then says what it says of a full disk."""

    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(Engine, "connect", limit)
    try:
        yield
    finally:
        event.remove(Engine, "connect", limit)


@pytest.mark.parametrize("number", [1, 2])
def test_a_kill_before_all_settings_of_the_recipe_are_stored_leaves_it_first(
    study: Study, kill_at_setting, number: int
):
    for _ in range(2):
        with kill_at_setting(number), pytest.raises(Killed):
            study.next_settings()
    settings = study.end_one()
    assert settings == {"train.optim.lr": 1e-3, "model.widths": (4,)}
    assert study.next_settings() != settings


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("ended", [1, 9])
def test_a_kill_before_all_settings_of_a_trial_are_stored_does_not_change_them(
    tmp_path: Path, kill_at_setting, number: int, ended: int
):
    """Neither while they are drawn at random, nor when the trials before say where to look."""
    whole, broken = Study(tmp_path / "whole.db"), Study(tmp_path / "broken.db")
    for study in (whole, broken):
        for _ in range(ended):
            study.end_one()
    with kill_at_setting(number), pytest.raises(Killed):
        broken.next_settings()
    assert broken.next_settings() == whole.next_settings()  # trained, and killed again
    assert broken.next_settings() == whole.next_settings()
    assert broken.end_one() == whole.end_one()
    assert broken.end_one() == whole.end_one()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"splits": "xyz"}, r"other splits: splits abc, not xyz"),
        ({"recipe": "huge"}, r"other recipe: recipe tiny, not huge"),
    ],
)
def test_a_study_of_something_else_is_refused(study: Study, made: dict[str, str], said: str):
    study.end_one()
    with pytest.raises(ConfigError, match=said) as caught, study.history(**made):
        pass
    assert "--study another file" in caught.value.hint


def test_a_study_of_another_space_is_refused(study: Study):
    study.end_one()
    with pytest.raises(ConfigError, match="a search with other space"), study.history(OTHER):
        pass


def test_a_study_in_which_nothing_ended_begins_anew_with_other_splits_or_space(study: Study):
    study.next_settings()
    other = Space(Recipe(DssmConfig(widths=(16,)), RECIPE.train), OTHER.varied)
    assert study.next_settings(other, splits="xyz") == {"model.widths": (16,)}
    assert study.next_settings() == {"train.optim.lr": 1e-3, "model.widths": (4,)}


def test_a_file_that_is_no_database_is_refused_and_left_alone(study: Study):
    study.path.write_text("these are notes, not a database " * 50)
    before = study.bytes_beside()
    with pytest.raises(ArtifactError, match="is not the history of a search"), study.history():
        pass
    assert study.bytes_beside() == before


def test_a_database_of_something_else_is_refused_and_left_alone(study: Study):
    with closing(sqlite3.connect(study.path)) as database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("CREATE TABLE runs (run_uuid TEXT)")
    before = study.bytes_beside()
    said = "is not the history of a search"
    with pytest.raises(ArtifactError, match=said) as caught, study.history():
        pass
    assert "alembic_version, runs" in caught.value.message
    assert "--study another file" in caught.value.hint
    assert study.bytes_beside() == before


def test_an_empty_file_becomes_a_study(study: Study):
    study.path.touch()
    assert study.end_one()["model.widths"] == (4,)


@pytest.mark.parametrize("pages", [1, 20])
def test_a_disk_that_fills_up_while_the_study_is_made_is_told_as_that(study: Study, pages: int):
    with full_disk(pages=pages), pytest.raises(StorageFull) as caught, study.history():
        pass
    assert f"{study.path} (database or disk is full)" in caught.value.message
    assert study.end_one()["model.widths"] == (4,)  # once there is room


def test_a_disk_that_fills_up_while_trials_are_kept_is_told_as_that(study: Study):
    study.end_one()
    with full_disk(pages=1), pytest.raises(StorageFull):  # no more than it has
        list(iter(study.end_one, None))
