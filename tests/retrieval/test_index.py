"""Indexes give what exact search gives, or as much of it as was asked."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perscen.config import IndexConfig
from perscen.errors import ArtifactError, ConfigError
from perscen.retrieval.exact import exact_top_k
from perscen.retrieval.index import ScenarioIndex, build_index, file_stem, write_index

IVF = IndexConfig(flat_below=0, recall_k=20, recall_target=0.95)
NO_QUERIES = torch.empty(0, 2)


def stored(directory, item_VG, *, queries_BG=NO_QUERIES, config=None, scenario="1"):
    built = build_index(item_VG, queries_BG, config=config or IndexConfig())
    ids = np.array(["", "", *(f"v{n}" for n in range(len(item_VG)))])
    write_index(directory, built, ids, scenario=scenario, fingerprint="f", model_digest="m")
    return ScenarioIndex.open(directory, scenario)


def clustered(num, *, seed, dim=16, clusters=40):
    centres = torch.randn(clusters, dim, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(clusters, (num,), generator=generator)
    return centres[which] + 0.2 * torch.randn(num, dim, generator=generator)


@settings(deadline=None, max_examples=25)
@given(items=st.integers(1, 60), k=st.integers(1, 80), seed=st.integers(0, 1000))
def test_a_flat_index_is_exact_search_with_ties_by_item_row(tmp_path_factory, items, k, seed):
    rng = np.random.default_rng(seed)
    item_VG = torch.from_numpy(rng.integers(-1, 2, (items, 2)).astype(np.float32))
    user_BG = torch.from_numpy(rng.integers(-1, 2, (4, 2)).astype(np.float32))
    index = stored(tmp_path_factory.mktemp("index"), item_VG)
    scores, positions = index.search(user_BG, k)
    expected_scores, expected = exact_top_k(user_BG, item_VG, k)
    assert positions.tolist() == expected.tolist()
    assert scores.tolist() == expected_scores.tolist()


def test_an_approximate_index_returns_the_share_of_the_exact_top_k_it_promises(tmp_path):
    item_VG, asked = clustered(6000, seed=1), clustered(300, seed=2)
    index = stored(tmp_path, item_VG, queries_BG=clustered(300, seed=3), config=IVF)
    assert index.sidecar.kind == "ivf"
    assert index.sidecar.parameters["nprobe"] < index.sidecar.parameters["nlist"] / 2
    _, found = index.search(asked, 20)
    exact = exact_top_k(asked, item_VG, 20)[1].numpy()
    overlap = np.mean([np.isin(a, b).mean() for a, b in zip(exact, found, strict=True)])
    assert overlap >= 0.9
    assert index.sidecar.recall >= 0.95


def test_an_approximate_index_returns_the_whole_catalogue_when_asked_for_it(tmp_path):
    index = stored(tmp_path, clustered(2000, seed=1), queries_BG=clustered(50, seed=2), config=IVF)
    assert index.sidecar.kind == "ivf"
    _, positions = index.search(clustered(2, seed=3), 5000)
    assert np.sort(positions, axis=1).tolist() == [list(range(2000))] * 2


def test_the_same_vectors_give_the_same_file(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        item_VG, queries = clustered(2000, seed=1), clustered(50, seed=2)
        stored(tmp_path / name, item_VG, queries_BG=queries, config=IVF)
    files = [sorted(p.read_bytes() for p in (tmp_path / n).iterdir()) for n in ("a", "b")]
    assert files[0] == files[1]


@pytest.mark.parametrize("queries", [NO_QUERIES, torch.randn(50, 16)], ids=["none", "noise"])
def test_where_no_approximate_index_meets_its_target_it_is_exact_and_says_so(
    tmp_path, caplog, queries
):
    noise = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
    config = IndexConfig(flat_below=0, recall_target=1.0)
    assert stored(tmp_path, noise, queries_BG=queries, config=config).sidecar.kind == "flat"
    assert "exact index instead" in caplog.text


@pytest.mark.parametrize("vectors", [torch.full((3, 2), torch.nan), torch.empty(0, 2)])
def test_vectors_that_cannot_be_searched_are_refused(vectors):
    with pytest.raises(ArtifactError):
        build_index(vectors, NO_QUERIES, config=IndexConfig())


@pytest.mark.parametrize("scenario", ["a/b", "../x", ".", "ab c", "推荐", "%41", "~"])
def test_a_scenario_of_any_name_gets_files_within_its_directory(tmp_path, scenario):
    inside = tmp_path / "indexes"
    inside.mkdir()
    index = stored(inside, torch.randn(3, 2), scenario=scenario)
    assert index.sidecar.scenario == scenario
    assert len(list(inside.iterdir())) == 3
    assert list(tmp_path.iterdir()) == [inside]


def test_different_scenarios_never_share_a_file():
    names = ["a/b", "a%2Fb", "a_b", "a.b", "a b", "A"]
    assert len({file_stem(name) for name in names}) == len(names)


@pytest.mark.parametrize("scenario", ["", "荐" * 40])
def test_a_scenario_that_cannot_name_a_file_is_a_clear_error(scenario):
    with pytest.raises(ConfigError, match="cannot name a file"):
        file_stem(scenario)


def test_an_index_with_the_ids_of_another_catalogue_is_refused(tmp_path):
    (tmp_path / "other").mkdir()
    stored(tmp_path, torch.randn(3, 2))
    stored(tmp_path / "other", torch.randn(4, 2))
    (tmp_path / "other" / "1.items.parquet").rename(tmp_path / "1.items.parquet")
    with pytest.raises(ArtifactError, match="3 vectors of width 2 and 4 ids"):
        ScenarioIndex.open(tmp_path, "1")


def test_a_recall_over_more_items_than_there_are_is_a_wrong_setting():
    with pytest.raises(ConfigError, match="recall_k is 20, but the catalogue has 19 items"):
        build_index(torch.randn(19, 2), NO_QUERIES, config=IVF)


def test_a_full_disk_is_an_error_and_not_an_index_cut_short(tmp_path):
    (tmp_path / "1.faiss").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        stored(tmp_path, torch.randn(3, 2))


@pytest.mark.gpu
def test_on_a_gpu_build_and_search_equal_the_cpu_up_to_ties(tmp_path):
    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        pytest.skip("needs faiss-gpu and a CUDA device")
    item_VG, asked = clustered(20_000, seed=1), clustered(100, seed=2)
    for config in (IndexConfig(), IVF):
        index = stored(tmp_path, item_VG, queries_BG=asked, config=config)
        assert index.on_device is not index.index
        on_cpu = ScenarioIndex(index.sidecar, index.item_ids_V, index.index, index.index)
        np.testing.assert_allclose(
            index.search(asked, 50)[0], on_cpu.search(asked, 50)[0], rtol=1e-4, atol=1e-4
        )
