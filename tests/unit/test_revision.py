"""Which revision of the code is told."""

from __future__ import annotations

import subprocess

import pytest

from components import revision as module
from components.revision import revision
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def _not_told(monkeypatch):
    monkeypatch.delenv("PERSCEN_REVISION", raising=False)


@pytest.mark.parametrize(("told", "known"), [("v1.2", "v1.2"), ("unknown", None)])
def test_an_image_tells_what_it_was_built_from(monkeypatch, told, known):
    monkeypatch.setenv("PERSCEN_REVISION", told)
    assert revision() == known


def test_a_checkout_tells_its_head():
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert revision() == asked.stdout.strip()


def test_below_somebody_elses_repository_nothing_is_told(monkeypatch, tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(module, "_ROOT", tmp_path / "site-packages")
    assert revision() is None


def test_a_repository_without_a_commit_tells_nothing(monkeypatch, tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.setattr(module, "_ROOT", tmp_path)
    assert revision() is None
