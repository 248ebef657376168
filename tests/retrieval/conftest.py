"""Worlds and registries for the tests of retrieval and publishing."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from perscen.data.splits import Splits
from perscen.retrieval.bundle import Bundle, Lineage, write_bundle
from tests.retrieval.world import DAY, World, make_world

if TYPE_CHECKING:  # MLflow takes seconds
    from components.adapters.registry import Registry


@pytest.fixture(scope="session")
def world_template(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(world_template: World, tmp_path: Path) -> World:
    """A world of this test's own."""
    shutil.copytree(world_template.root, tmp_path / "world")
    return World(tmp_path / "world", world_template.day)


@pytest.fixture(scope="session")
def bundle_template(world_template: World, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    directory = tmp_path_factory.mktemp("bundle")
    return bundle_of(world_template, directory)


@pytest.fixture
def bundle(bundle_template: Bundle, tmp_path: Path) -> Bundle:
    """A bundle of this test's own."""
    copy = shutil.copytree(bundle_template.path, tmp_path / "bundle")
    return Bundle(copy, bundle_template.manifest)


def bundle_of(world: World, directory: Path, *, include_users: bool = True) -> Bundle:
    model, indexes = world.open("model").manifest, world.open("indexes").manifest
    return write_bundle(
        directory,
        model=world.path("model"),
        indexes=world.path("indexes"),
        fingerprint=model.fingerprint,
        splits=Splits.open(world.path("splits")),
        lineage=Lineage(
            logical_date=DAY,
            splits_digest=world.open("splits").manifest.digest,
            model_digest=model.digest,
            indexes_digest=indexes.digest,
            verdict_digest="f" * 64,
            code_version=model.code_version,
            config_digest=model.config_digest,
            previous_bundle_id=None,
        ),
        num_probes=3,
        include_users=include_users,
        report=[world.path("report") / "index.html"],
        manifests={"model": world.path("model") / "manifest.json"},
    )


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, made once: that takes seconds."""
    from components.adapters.mlflow_client import connect

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def tracking_uri(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty registry of this test's own, which programs find by the environment."""
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return uri


@pytest.fixture
def registry(tracking_uri: str) -> Registry:
    from components.adapters.registry import Registry

    return Registry("perscen")


@pytest.fixture(scope="session")
def tomorrow_template(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(
        tmp_path_factory.mktemp("tomorrow"), seed=1, day=DAY + timedelta(days=1), flat_below=10**6
    )


@pytest.fixture
def tomorrow(tomorrow_template: World, tmp_path: Path) -> World:
    shutil.copytree(tomorrow_template.root, tmp_path / "tomorrow")
    return World(tmp_path / "tomorrow", tomorrow_template.day)
