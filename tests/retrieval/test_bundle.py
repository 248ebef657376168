"""A bundle is used whole and unchanged, or not at all."""

from __future__ import annotations

import json
import shutil

import pytest

from perscen.errors import ArtifactError
from perscen.retrieval.bundle import BundleManifest, open_bundle
from perscen.retrieval.retriever import Retriever
from tests.retrieval.conftest import bundle_of
from tests.retrieval.world import make_world

KINDS = [
    "bundle.json",
    "weights.safetensors",
    "model.json",
    "schema.json",
    "vocabularies.json",
    "scalers.json",
    "s0.faiss",
    "s1.items.parquet",
    "s1.json",
    "features/ids.npy",
    "histories/items.npy",
    "slices/start.npy",
    "probes.parquet",
    "manifests/model.json",
    "report/index.html",
    "report/files.json",
]


def file_of(bundle, kind):
    return next(p for p in sorted(bundle.path.rglob("*")) if p.as_posix().endswith(f"/{kind}"))


@pytest.mark.parametrize("kind", KINDS)
def test_one_changed_byte_of_any_file_is_refused(bundle, kind):
    path = file_of(bundle, kind)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError):
        Retriever.open(bundle.path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_refused(bundle, kind):
    path = file_of(bundle, kind)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ArtifactError):
        Retriever.open(bundle.path)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "report/files.json"])
def test_a_missing_file_is_refused(bundle, kind):
    file_of(bundle, kind).unlink()
    with pytest.raises(ArtifactError, match=r"missing|lacks"):
        open_bundle(bundle.path)


def test_a_file_that_is_not_listed_is_refused(bundle):
    (bundle.path / "left_over.faiss").write_text("")
    with pytest.raises(ArtifactError, match="left_over"):
        open_bundle(bundle.path)


def test_a_copy_without_the_report_is_whole(bundle):
    shutil.rmtree(bundle.path / "report")
    assert open_bundle(bundle.path).manifest == bundle.manifest


def test_a_bundle_of_a_newer_version_is_refused_by_name(bundle):
    path = bundle.path / "bundle.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(ArtifactError, match="schema version 2"):
        open_bundle(bundle.path)


def test_equal_content_gives_an_equal_id_whatever_the_report_says(world, tmp_path):
    first = bundle_of(world, tmp_path / "first")
    (world.path("report") / "index.html").write_text("<p>another page</p>")
    second = bundle_of(world, tmp_path / "second")
    assert second.manifest == first.manifest
    texts = [(path / "bundle.json").read_bytes() for path in (first.path, second.path)]
    assert texts[0] == texts[1]


def test_indexes_of_another_model_of_the_same_width_are_refused(world, tmp_path):
    other = make_world(tmp_path / "other", seed=1)
    shutil.rmtree(world.path("indexes"))
    shutil.copytree(other.path("indexes"), world.path("indexes"))
    with pytest.raises(ArtifactError, match="vectors of space"):
        bundle_of(world, tmp_path / "mixed")


def test_even_a_resealed_bundle_with_the_wrong_indexes_is_refused(bundle, tmp_path):
    """Fingerprints catch what checksums cannot: files that are each whole but not of one model."""
    other = bundle_of(make_world(tmp_path / "other", seed=1), tmp_path / "theirs")
    (fingerprint,), (their_fingerprint,) = bundle.fingerprints, other.fingerprints
    place = bundle.indexes_directory(fingerprint)
    shutil.rmtree(place)
    shutil.copytree(other.indexes_directory(their_fingerprint), place)
    record = json.loads((bundle.path / "bundle.json").read_text())
    theirs = {n.replace(their_fingerprint, fingerprint): r for n, r in other.manifest.files.items()}
    record["files"] |= {
        n: r.model_dump() for n, r in theirs.items() if "/indexes/" in n and n in record["files"]
    }
    manifest = BundleManifest.model_validate(record)
    record["bundle_id"] = manifest.content_id
    (bundle.path / "bundle.json").write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match="vectors of space"):
        Retriever.open(bundle.path)


def test_a_bundle_that_answers_otherwise_than_it_did_is_refused(bundle):
    serving = bundle.open_pair(bundle.fingerprints[0])
    probes = bundle.open_probes(bundle.fingerprints[0])
    probes.check(serving)
    for parameter in serving.model.parameters():
        parameter.data.mul_(1.2)
    with pytest.raises(ArtifactError, match="of the recorded vectors"):
        probes.check(serving)
