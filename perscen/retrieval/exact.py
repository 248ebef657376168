"""Vectors in blocks, and the exact top K: the reference for indexes, training and evaluation.

Letters: B queries, V items (position ``v`` is item row ``v + FIRST_ROW``), K results, S scenarios,
G width of the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from perscen.data.batches import ItemSource, UserSource
from perscen.data.splits import Queries, Slices
from perscen.models.gather import every_pair
from perscen.models.two_tower import TwoTower
from perscen.schema import FIRST_ROW

_SCORES_PER_BLOCK = 1 << 24


@torch.inference_mode()
def catalogue_vectors(
    model: TwoTower, items: ItemSource, *, scenarios: Sequence[int] | None = None, block: int = 4096
) -> Tensor:
    """Return every catalogue item's vector in every scenario, ``[S, V, G]``, on the items' device.

    Args:
        model: The model; its mode (training or evaluation) is left as it is.
        items: The catalogue, on the model's device.
        scenarios: Scenario indexes, all of the model's by default.
        block: Items per call of the item tower.
    """
    wanted = tuple(range(len(model.schema.scenarios))) if scenarios is None else tuple(scenarios)
    device = next(model.parameters()).device
    vectors_SVG = torch.empty(
        (len(wanted), items.num_rows - FIRST_ROW, model.dim), dtype=torch.float32, device=device
    )
    scenario_S = torch.tensor(wanted, dtype=torch.int64, device=device)
    for first in range(FIRST_ROW, items.num_rows, block):
        rows_B = torch.arange(first, min(first + block, items.num_rows), device=device)
        num = len(rows_B)
        vectors_PG = model.encode_items(items.batch(rows_B), *every_pair(num, scenario_S))
        start = first - FIRST_ROW
        vectors_SVG[:, start : start + num] = vectors_PG.view(len(wanted), num, model.dim)
    return vectors_SVG


@torch.inference_mode()
def query_vectors(
    model: TwoTower, users: UserSource, queries: Queries, slices: Slices, *, block: int = 4096
) -> Tensor:
    """Return the vectors ``[B, G]`` of evaluation queries, in their order."""
    blocks = []
    for first in range(0, len(queries.user), block):
        rows_B = np.arange(first, min(first + block, len(queries.user)), dtype=np.int64)
        batch = users.batch(queries.user, queries.scenario, slices, rows_B)
        blocks.append(model.encode_users(batch).vectors_BG.float())
    return torch.cat(blocks) if blocks else torch.empty((0, model.dim))


@torch.inference_mode()
def exact_top_k(user_BG: Tensor, item_VG: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the ``min(k, V)`` largest inner products of each query and the items' positions.

    Both are ``[B, K]``, best first; equal scores stand in the order of their positions, and where
    they straddle the cut the smaller positions are kept.
    """
    k = min(k, len(item_VG))
    rows_per_block = max(1, _SCORES_PER_BLOCK // max(1, len(item_VG)))
    blocks = [_top_k(block_BG @ item_VG.T, k) for block_BG in torch.split(user_BG, rows_per_block)]
    scores, positions = zip(*blocks, strict=True)
    return torch.cat(scores), torch.cat(positions)


def _top_k(scores_BV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    if k == 0:
        empty = scores_BV[:, :0]
        return empty, empty.long()
    # One more than asked shows whether the cut falls between equal scores.
    values, positions = scores_BV.topk(min(k + 1, scores_BV.shape[1]), dim=1)
    if values.shape[1] > k:
        tied_B = values[:, k] == values[:, k - 1]
        values, positions = values[:, :k], positions[:, :k].clone()
        if tied_B.any():
            positions[tied_B] = _smallest_positions(scores_BV[tied_B], values[tied_B, -1:], k)
    positions = positions.sort(dim=1).values
    values, order = scores_BV.gather(1, positions).sort(dim=1, descending=True, stable=True)
    return values, positions.gather(1, order)


def _smallest_positions(scores_BV: Tensor, cut_B1: Tensor, k: int) -> Tensor:
    """Return the positions ``[B, K]`` above the cut, filled up with the first ones on it."""
    above_BV = scores_BV > cut_B1
    on_cut_BV = scores_BV == cut_B1
    room_B1 = k - above_BV.sum(dim=1, keepdim=True)
    kept_BV = above_BV | (on_cut_BV & (on_cut_BV.cumsum(dim=1) <= room_B1))
    return kept_BV.nonzero()[:, 1].view(-1, k)
