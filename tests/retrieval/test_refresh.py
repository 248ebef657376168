"""What is served changes as a whole, and only for a release that answers as it did."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil

import pytest
from click.testing import CliRunner

from components.refresh_command import check, refresh, swap_in
from perscen.errors import ArtifactError, ConfigError
from perscen.retrieval.bundle import Bundle, FileRecord, open_bundle
from perscen.retrieval.retriever import Retriever
from tests.retrieval.conftest import bundle_of


@pytest.fixture
def root(tmp_path):
    return tmp_path / "serving"


@pytest.fixture
def without_users(world_template, tmp_path) -> Bundle:
    """Another release of the same day."""
    return bundle_of(world_template, tmp_path / "without-users", include_users=False)


def sealed(bundle: Bundle, **changes: object) -> Bundle:
    """The bundle with its manifest made anew over the files as they are."""
    files = {}
    for name in bundle.manifest.files:
        content = (bundle.path / name).read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        files[name] = FileRecord(size_bytes=len(content), sha256=sha256)
    manifest = bundle.manifest.model_copy(update={"files": files, **changes})
    manifest = manifest.model_copy(update={"bundle_id": manifest.content_id})
    (bundle.path / "bundle.json").write_text(json.dumps(manifest.model_dump(mode="json")))
    return open_bundle(bundle.path)


def test_a_release_is_copied_tested_and_then_served(bundle, root):
    assert swap_in(bundle, root)
    assert (root / "current").resolve().name == bundle.manifest.bundle_id
    shutil.rmtree(bundle.path)
    assert Retriever.open(root / "current").manifest == bundle.manifest
    assert check(root).manifest == bundle.manifest


def test_what_is_served_already_is_left_alone(bundle, root):
    swap_in(bundle, root)
    before = {p: p.stat().st_ino for p in root.rglob("*")}
    assert not swap_in(bundle, root)
    assert {p: p.stat().st_ino for p in root.rglob("*")} == before


def test_the_release_before_is_kept_and_older_ones_go(bundle, without_users, root):
    first, second = bundle.manifest.bundle_id, without_users.manifest.bundle_id
    swap_in(bundle, root)
    swap_in(without_users, root)
    assert (root / "current").resolve().name == second
    assert (root / "previous").resolve().name == first
    lineage = bundle.manifest.lineage.model_copy(update={"verdict_digest": "a" * 64})
    third = sealed(bundle, lineage=lineage)
    swap_in(third, root)
    kept = {p.name for p in root.iterdir() if p.is_dir() and not p.is_symlink()}
    assert kept == {second, third.manifest.bundle_id}


def test_going_back_serves_the_release_before(bundle, without_users, root):
    swap_in(bundle, root)
    swap_in(without_users, root)
    assert swap_in(bundle, root)
    assert check(root).manifest == bundle.manifest
    assert (root / "previous").resolve().name == without_users.manifest.bundle_id


def test_a_release_that_fails_its_probes_stays_out(bundle, without_users, root):
    swap_in(without_users, root)
    fingerprint = bundle.fingerprints[0]
    probes = bundle.open_probes(fingerprint)
    wrong = dataclasses.replace(probes, vectors_BG=probes.vectors_BG + 1)
    wrong.save(bundle.path / "pairs" / fingerprint / "probes.parquet")
    liar = sealed(bundle)
    with pytest.raises(ArtifactError, match="of the recorded vectors"):
        swap_in(liar, root)
    assert check(root).manifest == without_users.manifest
    assert not (root / liar.manifest.bundle_id).exists()
    assert [p for p in root.iterdir() if p.name.startswith(".staged")] == []


def test_a_served_copy_that_went_bad_is_seen_and_replaced(bundle, root):
    swap_in(bundle, root)
    weights = next((root / "current").rglob("weights.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"weights\.safetensors"):
        check(root)
    assert swap_in(bundle, root)
    assert check(root).manifest == bundle.manifest


def test_nothing_served_yet_is_an_error_of_the_check(root):
    with pytest.raises(ArtifactError, match="nothing is served"):
        check(root)


def test_what_was_not_made_here_is_not_replaced(bundle, root):
    (root / "current").mkdir(parents=True)
    with pytest.raises(ConfigError, match="is no link"):
        swap_in(bundle, root)


def test_an_object_store_is_no_place_to_serve_from(bundle):
    result = CliRunner().invoke(refresh, ["--bundle", str(bundle.path), "--to", "s3://b/serving"])
    assert isinstance(result.exception, ConfigError)


def test_the_command_says_what_is_served(bundle, root):
    def said(*argv: str) -> str:
        result = CliRunner().invoke(refresh, ["--to", str(root), *argv], catch_exceptions=False)
        return result.output

    what = f"serving bundle {bundle.manifest.bundle_id[:12]} of 2022-05-05 (2 scenarios)"
    assert said("--bundle", str(bundle.path)) == f"now {what}\n"
    assert said("--bundle", str(bundle.path)) == f"already {what}; nothing to do\n"
    assert said("--check") == f"{what}; its probes get the recorded answers\n"
