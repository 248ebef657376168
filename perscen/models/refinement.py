"""From a generator's raw output to the graph of each layer: scale, sparsify, symmetrise.

Everything is per user: a row of the result depends on no other row of the batch.
Letters: B users or items, N nodes, K entries that compete.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from perscen.models.config import GraphConfig

EPSILON = 1e-8
"""Keeps the scaling finite when all entries of a graph are equal."""


def refine(raw_BNN: Tensor, *, config: GraphConfig) -> Tensor:
    """Return the refined adjacency ``[B, N, N]``: symmetric, and but for ``none`` in [0, 1]."""
    scaled_BNN = scale(raw_BNN)
    kept_BNN = kept(scaled_BNN.detach().clone(), config=config)
    kept_BNN = kept_BNN * (raw_BNN if config.normalise == "none" else scaled_BNN)
    if config.self_loop == "one":
        kept_BNN = kept_BNN + torch.eye(raw_BNN.shape[-1]).to(raw_BNN)
    return _finished(kept_BNN, config)


def refined_orders(first_BNN: Tensor, layers: int, *, config: GraphConfig) -> list[Tensor]:
    """Return the refined adjacency of layers 1 to L, each ``[B, N, N]``, by ``graph.power``."""
    first = refine(first_BNN, config=config)
    orders, raw_BNN = [first], first_BNN
    for _ in range(layers - 1):
        if config.power == "same":
            orders.append(first)
        elif config.power == "raw":
            raw_BNN = raw_BNN @ first_BNN
            orders.append(refine(raw_BNN, config=config))
        else:
            product_BNN = orders[-1] @ first
            if config.normalise != "none":
                product_BNN = scale(product_BNN)
            orders.append(_finished(product_BNN * (first.detach() != 0), config))
    return orders


def _finished(kept_BNN: Tensor, config: GraphConfig) -> Tensor:
    """Symmetrise, and divide by the degrees where that is asked for."""
    symmetric_BNN = (kept_BNN + kept_BNN.mT) / 2
    if config.normalise != "degree":
        return symmetric_BNN
    root_BN = (symmetric_BNN.sum(dim=2) + EPSILON).rsqrt()
    # The roots first: so the two sides of the diagonal are equal to the bit.
    return symmetric_BNN * (root_BN[:, :, None] * root_BN[:, None])


def scale(raw_BNN: Tensor) -> Tensor:
    """Return each user's entries scaled to [0, 1] by the least and the greatest of them."""
    low_B11 = raw_BNN.flatten(1).min(dim=1).values[:, None, None]
    high_B11 = raw_BNN.flatten(1).max(dim=1).values[:, None, None]
    return (raw_BNN - low_B11) / (high_B11 - low_B11 + EPSILON)


def kept(scaled_BNN: Tensor, *, config: GraphConfig) -> Tensor:
    """Return ``[B, N, N]`` of 1 for scaled entries that stay and 0 for others; spoils the diagonal.

    Only with ``self_loop: keep`` do the diagonal's entries compete; otherwise none of them stays,
    and with ``self_loop: one`` the unit diagonal still uses up its part of ``keep_ratio``.
    """
    N = scaled_BNN.shape[-1]
    if config.self_loop != "keep":
        scaled_BNN.diagonal(dim1=1, dim2=2).fill_(-1)
    if config.sparsify == "none":
        return at_least(scaled_BNN, 0.0)
    if config.sparsify == "threshold":
        return at_least(scaled_BNN, config.threshold)
    rows = N if config.sparsify == "global_topk" else 1
    count = math.floor(config.keep_ratio * N * rows + 1e-9)
    if config.self_loop == "one":
        count -= rows
    elif config.self_loop == "zero":
        count = min(count, (N - 1) * rows)
    return largest(scaled_BNN.reshape(-1, N * rows), count).view_as(scaled_BNN)


def largest(values_BK: Tensor, count: int) -> Tensor:
    """Return ``[B, K]``, 1 for the ``count`` largest of each row, of equals the first."""
    if count <= 0:
        return torch.zeros_like(values_BK)
    if count >= values_BK.shape[1]:
        return torch.ones_like(values_BK)
    cut_B1 = _nth_smallest(values_BK, values_BK.shape[1] - count)
    mask_BK = at_least(values_BK, cut_B1)
    if bool((mask_BK.sum(dim=1) == count).all()):
        return mask_BK
    above_BK, level_BK = values_BK > cut_B1, values_BK == cut_B1
    room_B1 = count - above_BK.sum(dim=1, keepdim=True)
    return (above_BK | (level_BK & (level_BK.cumsum(dim=1) <= room_B1))).to(values_BK)


def at_least(values: Tensor, cut: Tensor | float) -> Tensor:
    """Return 1 where a value reaches the cut, else 0, as numbers: on a CPU faster than bool."""
    return torch.ge(values, cut, out=torch.empty_like(values))


def _nth_smallest(values_BK: Tensor, n: int) -> Tensor:
    """Return ``[B, 1]``, what stands at position ``n`` (from 0) of each row when it is sorted."""
    if values_BK.device.type == "cpu":  # several times faster than torch's selection
        return torch.from_numpy(np.partition(values_BK.numpy(), n, axis=1)[:, n : n + 1])
    return values_BK.kthvalue(n + 1, dim=1, keepdim=True).values
