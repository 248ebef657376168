"""Adam in the three forms the settings offer (spec 2.8, 6.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer, SparseAdam

from perscen.config import OptimConfig


class Optimiser:
    """Adam on every parameter, or Adam beside row-wise lazy Adam on the embedding tables.

    Lazy Adam touches the rows a batch has met: the others keep their moments and feel no weight
    decay, which makes it another update rule, and a step on a huge table cheap.
    """

    def __init__(self, model: nn.Module, config: OptimConfig) -> None:
        self._config = config
        tables = [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
        self._lazy = [m.weight for m in tables] if config.sparse_embeddings else []
        for table in tables if config.sparse_embeddings else ():
            table.sparse = True
        lazy = {id(parameter) for parameter in self._lazy}
        dense = [p for p in model.parameters() if id(p) not in lazy]
        adam = AdamW if config.decoupled else Adam
        self._parts: list[Optimizer] = [
            adam(dense, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        ]
        if self._lazy:
            self._parts.append(SparseAdam(self._lazy, lr=config.lr))

    def zero_grad(self) -> None:
        """Drop the gradients of the last step."""
        for part in self._parts:
            part.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters from their gradients."""
        for table in self._lazy:
            self._decay_rows(table)
        for part in self._parts:
            part.step()

    def _decay_rows(self, table: Tensor) -> None:
        """Add weight decay to the rows the gradient has, which SparseAdam itself cannot."""
        if table.grad is None or self._config.weight_decay == 0:
            return
        grad = table.grad.coalesce()
        rows_R = grad.indices()[0]
        if self._config.decoupled:
            shrunk_RD = table[rows_R] * (1 - self._config.lr * self._config.weight_decay)
            table.index_copy_(0, rows_R, shrunk_RD)
            return
        values_RD = grad.values() + self._config.weight_decay * table[rows_R]
        table.grad = torch.sparse_coo_tensor(
            grad.indices(), values_RD, grad.shape, is_coalesced=True, check_invariants=False
        )

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the moments and step counts."""
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, state: Sequence[dict[str, Any]]) -> None:
        """Take over moments and step counts."""
        for part, saved in zip(self._parts, state, strict=True):
            part.load_state_dict(saved)
