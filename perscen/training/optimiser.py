"""Adam in the three forms the settings offer, and a mean of what it leads to.

Letters: R table rows, K rows a batch has met, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from perscen.config import OptimConfig
from perscen.models.embedding import FieldTable

_BETAS: Final = (0.9, 0.999)
_EPS: Final = 1e-8
"""Both as torch's Adam has them."""


class Optimiser:
    """Adam on every parameter, or Adam beside row-wise lazy Adam on the embedding tables."""

    def __init__(self, model: nn.Module, config: OptimConfig) -> None:
        tables = list(embedding_tables(model)) if config.sparse_embeddings else []
        lazy = {id(table) for table in tables}
        dense = [p for p in model.parameters() if id(p) not in lazy]
        adam = AdamW if config.decoupled else Adam
        self._parts: list[Optimizer] = [
            adam(dense, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        ]
        if tables:
            self._parts.append(LazyAdam(tables, config))

    def zero_grad(self) -> None:
        """Drop the gradients of the last step."""
        for part in self._parts:
            part.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Update the parameters from their gradients."""
        for part in self._parts:
            part.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the moments and step counts."""
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, state: Sequence[dict[str, Any]]) -> None:
        """Take over moments and step counts."""
        for part, saved in zip(self._parts, state, strict=True):
            part.load_state_dict(saved)


class LazyAdam(Optimizer):
    """Adam on the rows that have a gradient: the others keep their moments and feel no decay.

    Another update rule than Adam's, and on a huge table a far cheaper one. Rows are found by their
    gradient, so it does not matter how a model gathers them; torch's ``SparseAdam`` needs sparse
    gradients and knows no weight decay.
    """

    def __init__(self, tables: Iterable[Tensor], config: OptimConfig) -> None:
        super().__init__(tables, {})
        self._config = config

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Update the rows that have a gradient."""
        for group in self.param_groups:
            for table_RD in group["params"]:
                if table_RD.grad is not None:
                    self._update(table_RD)

    def _update(self, table_RD: Tensor) -> None:
        assert table_RD.grad is not None
        beta1, beta2 = _BETAS
        state = self.state[table_RD]
        if not state:
            state["step"] = 0
            state["mean_RD"], state["square_RD"] = (torch.zeros_like(table_RD) for _ in range(2))
        state["step"] += 1
        rows_K = table_RD.grad.any(dim=1).nonzero()[:, 0]
        grad_KD, rows_KD = table_RD.grad[rows_K], table_RD[rows_K]
        lr, decay = self._config.lr, self._config.weight_decay
        if self._config.decoupled:
            rows_KD = rows_KD * (1 - lr * decay)
        else:
            grad_KD = grad_KD + decay * rows_KD
        mean_KD = state["mean_RD"][rows_K].lerp_(grad_KD, 1 - beta1)
        square_KD = state["square_RD"][rows_K].lerp_(grad_KD.square(), 1 - beta2)
        state["mean_RD"][rows_K], state["square_RD"][rows_K] = mean_KD, square_KD
        size_KD = (square_KD / (1 - beta2 ** state["step"])).sqrt_() + _EPS
        table_RD[rows_K] = rows_KD - lr / (1 - beta1 ** state["step"]) * mean_KD / size_KD


def running_mean(model: nn.Module, *, decay: float) -> AveragedModel | None:
    """Return a copy of the model that follows its weights and codebook slowly.

    Sparse scenarios have few rows, so their weights jump from step to step; the mean does not.
    """
    if not decay:
        return None
    # Buffers too: the codebook must move with the encoder whose vectors it quantises.
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    def average_numbers(means: Any, values: Any, num_averaged: Any) -> None:
        if means[0].is_floating_point():
            average(means, values, num_averaged)
        else:  # rows and counts have no mean
            for mean, value in zip(means, values, strict=True):
                mean.copy_(value)

    return AveragedModel(model, multi_avg_fn=average_numbers, use_buffers=True)


def embedding_tables(model: nn.Module) -> Iterable[Tensor]:
    """Yield the weights of a model that hold one row per value; all others are dense networks."""
    for module in model.modules():
        if isinstance(module, FieldTable):
            yield module.weight_RD
