"""One inner-product index per scenario over the whole catalogue, and the files it is kept in.

Letters: B queries, V items (position ``v`` is item row ``v + FIRST_ROW``), K results, W results
fetched, G width of the vectors.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from perscen.config import IndexConfig
from perscen.errors import ArtifactError, ConfigError
from perscen.manifests import IndexRecord
from perscen.retrieval.exact import exact_top_k
from perscen.schema import FIRST_ROW

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Longs = NDArray[np.int64]

MAX_CALIBRATION_QUERIES: Final = 2_000
_SEED: Final = 20
# A constant, not the machine's own number: the same vectors then give the same file everywhere.
_BUILD_THREADS: Final = 4
_GPU_MAX_K: Final = 2_048
_MAX_NAME_BYTES: Final = 200


class IndexSidecar(IndexRecord):
    """What stands beside an index: whose vectors it holds, and how it is searched."""

    schema_version: Literal[1] = 1
    scenario: str
    fingerprint: str
    """The space the vectors live in; a tower of another space must not query them."""
    model_digest: str
    dim: int


def file_stem(scenario: str) -> str:
    """Return a scenario's name as a file name: letters, digits, ``-``, ``_``, the rest as ``%XX``.

    Raises:
        ConfigError: The name is empty or too long for a file.
    """
    stem = quote(scenario, safe="").replace(".", "%2E").replace("~", "%7E")
    if not 0 < len(stem) <= _MAX_NAME_BYTES:
        raise ConfigError(
            f"the scenario name {scenario!r} cannot name a file: it takes {len(stem)} bytes, "
            f"expected 1 to {_MAX_NAME_BYTES}",
            hint="give the scenario a shorter name in the log, or leave it out in split.scenarios",
        )
    return stem


@dataclass(frozen=True)
class Built:
    """A built index with what was chosen and measured."""

    index: Any
    record: IndexRecord


def build_index(item_VG: Tensor, query_BG: Tensor, *, config: IndexConfig) -> Built:
    """Return an index of the item vectors: exact when small, else approximate at the recall asked.

    The approximate one starts with about ``4 * sqrt(V)`` cells; the number of cells searched is
    doubled until ``query_BG`` get ``config.recall_target`` of their exact top ``recall_k``. When
    that takes half of the cells or more, or there are no queries to measure with, the index is
    exact after all. Built on the GPU when faiss and the machine have one.

    Args:
        item_VG: The catalogue's vectors.
        query_BG: Validation queries of the scenario; may be empty.
        config: Size limit and recall target.

    Raises:
        ArtifactError: A vector is not finite, or there are no items.
        ConfigError: An approximate index is to be measured over more items than there are.
    """
    if len(item_VG) == 0 or not bool(torch.isfinite(item_VG).all()):
        bad = "no item at all" if len(item_VG) == 0 else "an item vector that is not finite"
        raise ArtifactError(f"the model gives {bad}; nothing can be indexed", hint="train again")
    vectors_VG = _as_array(item_VG)
    num_items = len(vectors_VG)
    if num_items >= config.flat_below:
        _check_recall_k(config, num_items)
        if len(query_BG) and (built := _build_ivf(item_VG, query_BG, config=config)):
            return built
        why = "no queries to measure with" if not len(query_BG) else "the recall target is not met"
        logger.warning("exact index instead of an approximate one", extra={"reason": why})
    index = faiss.IndexFlatIP(vectors_VG.shape[1])
    index.add(vectors_VG)
    return Built(index, IndexRecord(kind="flat", parameters={}, num_items=num_items, recall=1.0))


def _check_recall_k(config: IndexConfig, num_items: int) -> None:
    if config.recall_k > num_items:
        raise ConfigError(
            f"index.recall_k is {config.recall_k:,}, but the catalogue has {num_items:,} items",
            hint="make it smaller than the catalogue, or raise index.flat_below for an exact index",
        )


def _build_ivf(item_VG: Tensor, query_BG: Tensor, *, config: IndexConfig) -> Built | None:
    vectors_VG = _as_array(item_VG)
    num_items, dim = vectors_VG.shape
    # k-means wants some 39 points per cell; with fewer it warns and the cells are noise.
    nlist = max(1, min(int(4 * num_items**0.5), num_items // 39))
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(_BUILD_THREADS)
    try:
        cells = faiss.IndexFlatIP(dim)
        index: Any = faiss.IndexIVFFlat(cells, dim, nlist, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = _SEED
        index.cp.niter = 10
        index.cp.max_points_per_centroid = 64
        on_device = to_gpu(index)
        on_device.train(vectors_VG)
        on_device.add(vectors_VG)
        index = faiss.index_gpu_to_cpu(on_device) if on_device is not index else index
    finally:
        faiss.omp_set_num_threads(threads)
    spaced = np.linspace(0, len(query_BG) - 1, min(len(query_BG), MAX_CALIBRATION_QUERIES))
    sample_BG = query_BG[torch.from_numpy(spaced.astype(np.int64)).to(query_BG.device)]
    k = config.recall_k
    exact_BK = _as_array(exact_top_k(sample_BG, item_VG, k)[0])
    nprobe = 1
    while nprobe < nlist / 2:
        index.nprobe = nprobe
        recall = _recall(index.search(_as_array(sample_BG), k)[0], exact_BK)
        if recall >= config.recall_target:
            parameters = {"nlist": nlist, "nprobe": nprobe}
            record = IndexRecord(
                kind="ivf", parameters=parameters, num_items=num_items, recall=recall
            )
            return Built(index, record)
        nprobe *= 2
    return None


def _recall(found_BK: Floats, exact_BK: Floats) -> float:
    """Return the share of the exact top K found, in [0, 1], by score: equal scores are as good."""
    cut_B1 = exact_BK[:, -1:]
    return float((found_BK >= cut_B1 - 1e-5 * np.abs(cut_B1)).mean())


def to_gpu(index: Any) -> Any:
    """Return the index on the first GPU, or itself where faiss or the machine has none."""
    if not hasattr(faiss, "StandardGpuResources") or faiss.get_num_gpus() == 0:
        return index
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)


@dataclass(frozen=True)
class ScenarioIndex:
    """A scenario's index, ready to search.

    Attributes:
        item_ids_V: Raw item id at each position.
    """

    sidecar: IndexSidecar
    item_ids_V: NDArray[np.str_]
    index: Any
    on_device: Any
    """The same index on the GPU, or ``index`` itself."""

    @classmethod
    def open(cls, directory: Path, scenario: str) -> ScenarioIndex:
        """Return the index that :func:`write_index` wrote, its vectors mapped into memory.

        Raises:
            ArtifactError: A file is missing or does not fit the others.
        """
        stem = file_stem(scenario)
        sidecar = _read_sidecar(directory / f"{stem}.json")
        try:
            ids = pq.read_table(directory / f"{stem}.items.parquet", columns=["item_id"])
            file = str(directory / f"{stem}.faiss")
            index: Any = faiss.read_index(file, faiss.IO_FLAG_MMAP_IFC)
        except (OSError, RuntimeError, pa.ArrowException) as exc:
            raise ArtifactError(
                f"the index of scenario {scenario!r} in {directory} cannot be read: {exc}",
                hint="run `index` again",
            ) from exc
        shape = (sidecar.scenario, sidecar.num_items, sidecar.num_items, sidecar.dim)
        if shape != (scenario, index.ntotal, len(ids), index.d):
            raise ArtifactError(
                f"the index of scenario {scenario!r} in {directory} holds {index.ntotal} vectors "
                f"of width {index.d} and {len(ids)} ids; its side-car says {sidecar.num_items} "
                f"of width {sidecar.dim} for scenario {sidecar.scenario!r}",
                hint="run `index` again",
            )
        if sidecar.kind == "ivf":
            index.nprobe = sidecar.parameters["nprobe"]
        item_ids = ids["item_id"].to_numpy().astype(np.str_)
        return cls(sidecar=sidecar, item_ids_V=item_ids, index=index, on_device=to_gpu(index))

    def search(self, user_BG: Tensor, k: int) -> tuple[Floats, Longs]:
        """Return the ``min(k, V)`` best scores and item positions ``[B, K]``, best first.

        Equal scores stand in the order of their positions, and where they straddle the cut the
        smaller positions are kept (among those that an approximate index sees).
        """
        queries_BG = _as_array(user_BG)
        num_items = self.index.ntotal
        k = min(k, num_items)
        scores_BK = np.empty((len(queries_BG), k), np.float32)
        positions_BK = np.empty((len(queries_BG), k), np.int64)
        pending_B, fetch = np.arange(len(queries_BG)), min(k + 1, num_items)
        while len(pending_B):
            scores, positions = self._fetch(queries_BG[pending_B], fetch)
            # Sorted by falling score, then by rising position; the cut is final once all that tie
            # with it were fetched.
            order = np.lexsort((positions, -scores), axis=1)
            final = (scores[:, -1] < scores[:, k - 1]) | (fetch == num_items) | (k == 0)
            for wide, out in ((scores, scores_BK), (positions, positions_BK)):
                out[pending_B[final]] = np.take_along_axis(wide, order, axis=1)[final, :k]
            pending_B, fetch = pending_B[~final], min(2 * fetch, num_items)
        return scores_BK, positions_BK

    def _fetch(self, queries_BG: Floats, num: int) -> tuple[Floats, Longs]:
        """Return the best ``num`` by falling score, looking everywhere where cells run short."""
        index = self.on_device if num <= _GPU_MAX_K else self.index
        scores, positions = index.search(queries_BG, num)
        if (short_B := (positions < 0).any(axis=1)).any():
            everywhere = faiss.SearchParametersIVF()
            everywhere.nprobe = self.sidecar.parameters["nlist"]
            scores[short_B], positions[short_B] = self.index.search(
                queries_BG[short_B], num, params=everywhere
            )
        return scores, positions


def write_index(
    directory: Path, built: Built, item_ids: NDArray[np.str_], *, scenario: str, **lineage: Any
) -> IndexSidecar:
    """Write an index, its id map and its side-car.

    Args:
        directory: Where to.
        built: What :func:`build_index` returned.
        item_ids: Raw ids of the item *table*, rows 0 and 1 included.
        scenario: Raw scenario name.
        lineage: ``fingerprint`` and ``model_digest``.
    """
    stem = file_stem(scenario)
    sidecar = IndexSidecar(
        scenario=scenario, dim=built.index.d, **lineage, **built.record.model_dump()
    )
    # Through memory: faiss closes a file on a full disk without an error, cut short.
    (directory / f"{stem}.faiss").write_bytes(faiss.serialize_index(built.index).data)
    ids = np.asarray(item_ids[FIRST_ROW:])
    positions = np.arange(len(ids), dtype=np.int64)
    table = {"position": positions, "item_id": pa.array(ids.tolist(), pa.string())}
    table["item_row"] = positions + FIRST_ROW
    pq.write_table(pa.table(table), directory / f"{stem}.items.parquet")
    (directory / f"{stem}.json").write_text(
        sidecar.model_dump_json(indent=2) + "\n", encoding="utf-8"
    )
    return sidecar


def _read_sidecar(path: Path) -> IndexSidecar:
    try:
        text = path.read_text(encoding="utf-8")
        version = json.loads(text).get("schema_version")
        if version != 1:
            raise ArtifactError(
                f"{path} has schema version {version!r}; this program reads version 1",
                hint="use the version of perscen that made it",
            )
        return IndexSidecar.model_validate_json(text)
    except (OSError, ValueError, AttributeError, ValidationError) as exc:
        raise ArtifactError(
            f"{path} is not the side-car of an index: {exc}", hint="run `index` again"
        ) from exc


def _as_array(vectors: Tensor) -> Floats:
    return np.ascontiguousarray(vectors.detach().cpu().numpy(), dtype=np.float32)
