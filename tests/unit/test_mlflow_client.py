"""An address of MLflow may hold a password, which nobody is shown."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest

from components.adapters.comparisons import ComparisonLog
from components.adapters.mlflow_client import without_secrets
from components.adapters.registry import Registry
from components.adapters.releases import Promotion
from components.adapters.tracking import Tracker
from components.steps import publish
from perscen.errors import ServiceUnavailable

SILENT = "http://user:s3cret@127.0.0.1:9"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://user:s3cret@host/db", "postgresql://***@host/db"),
        ("http://user:s3@cret@host:5000 is silent", "http://***@host:5000 is silent"),
        ("http://host:5000/path@tag", "http://host:5000/path@tag"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
    ],
)
def test_an_address_is_shown_without_user_and_password(address, shown):
    assert without_secrets(address) == shown


def test_a_release_says_where_it_was_registered_without_the_password(tmp_path):
    registry = SimpleNamespace(name="perscen", tracking_uri="postgresql://user:s3cret@host/db")
    release = SimpleNamespace(version="1", bundle_id="b" * 64)
    publish._write_release(
        tmp_path / "release.json", registry, release, Promotion("1", None, moved=True)
    )
    told = json.loads((tmp_path / "release.json").read_text())
    assert told["tracking_address"] == "postgresql://***@host/db"


@pytest.mark.medium
def test_a_server_that_does_not_answer_is_named_without_the_password(monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ServiceUnavailable) as error:
        Registry("perscen", tracking_uri=SILENT).releases()
    assert "***@127.0.0.1:9" in error.value.message
    assert "s3cret" not in error.value.message
    with caplog.at_level(logging.WARNING, logger="components"):
        Tracker(monitor_k=50, tracking_uri=SILENT).start(tags={}, settings={})
        ComparisonLog(tracking_uri=SILENT)
    told = [vars(record) for record in caplog.records if record.name.startswith("components")]
    assert [record["address"] for record in told] == ["http://***@127.0.0.1:9"] * 2
    assert "s3cret" not in str(told)
