"""What the graph costs by itself: refinement and messages, forward and backward.

Letters: B rows, N nodes, D node width, L layers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from perscen.models.config import GraphConfig
from perscen.models.feature_graph import messages_of
from perscen.models.refinement import refined_orders

_ROUNDS: Final = 5

Way = Callable[..., list[Tensor]]


class KernelCost(NamedTuple):
    """Of one pass over a batch, on one thread of this machine."""

    cpu_ms: float
    """Forward and backward, the median of a few rounds."""
    held_mb: float
    """What the forward keeps for the backward, in units of 2**20 bytes."""
    edges: float
    """Mean share of a graph's entries that messages pass over, after it is made symmetric."""


def kernel_cost(
    config: GraphConfig,
    *,
    layers: int,
    num_nodes: int,
    dim: int,
    rows: int,
    way: Way | None = None,
    seed: int = 0,
) -> KernelCost:
    """Return the cost of a kernel on random graphs; by default of the one a model would use."""
    generator = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    # A generator's output lies in memory node by node, not row by row.
    first_BNN = leaf(num_nodes, rows, num_nodes).transpose(0, 1)
    inputs = first_BNN, leaf(rows, num_nodes, dim), leaf(layers, dim, dim)
    chosen = way or messages_of(num_nodes, layers, config=config, on_cpu=True)
    taken = []
    for _ in range(_ROUNDS + 1):
        started = time.process_time()
        hidden = chosen(*inputs, config=config, leaky=False)
        torch.autograd.backward(hidden, [torch.ones_like(h) for h in hidden])
        taken.append(1e3 * (time.process_time() - started))
    return KernelCost(
        cpu_ms=statistics.median(taken[1:]),
        held_mb=_held(lambda: chosen(*inputs, config=config, leaky=False)) / 2**20,
        edges=_edges(inputs[0][:16].detach(), layers, config),
    )


def _held(work: Callable[[], list[Tensor]]) -> int:
    """Return the bytes that some work keeps for its backward, each storage counted once."""
    storages: dict[int, int] = {}

    def note(kept: Tensor) -> Tensor:
        storage = kept.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return kept

    with torch.autograd.graph.saved_tensors_hooks(note, lambda kept: kept):
        hidden = work()
    for chunk in getattr(hidden[0].grad_fn, "chunks", ()):
        for part in _tensors(list(vars(chunk).values())):
            note(part)
    return sum(storages.values())


def _tensors(values: list[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, np.ndarray):
            yield torch.from_numpy(value)
        elif isinstance(value, list):
            yield from _tensors(value)
        else:
            yield from _tensors([value.data, value.indices, value.indptr])


def _edges(first_BNN: Tensor, layers: int, config: GraphConfig) -> float:
    orders = refined_orders(first_BNN, layers, config=config)
    return float(torch.stack([(order != 0).float().mean() for order in orders]).mean())
