"""Refinement and messages in one block with a hand-written backward, for speed alone.

:func:`propagate` returns what :func:`pass_messages` over :func:`refined_orders` returns. It works
through the batch in chunks that stay in the processor's cache, and keeps for the backward only what
that needs. Letters: B rows, N nodes, D node width, L layers; C rows of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from perscen.models.config import GraphConfig
from perscen.models.refinement import EPSILON, kept, refined_orders

CHUNK_ENTRIES: Final = 2**18
"""Adjacency entries of one chunk: about 1 MiB, the size of a core's cache."""

LEAK: Final = 0.01


def pass_messages(
    orders: list[Tensor], nodes_BND: Tensor, message_LDD: Tensor, *, leaky: bool = False
) -> list[Tensor]:
    """Return ``H(1) .. H(L)`` by eq. (5), each ``[B, N, D]``.

    Args:
        orders: The refined adjacency of each layer, ``[B, N, N]`` or ``[1, N, N]``.
        nodes_BND: ``H(0)``.
        message_LDD: ``W_g`` of each layer.
        leaky: Whether a leaky ReLU follows the sum in all layers but the last.
    """
    hidden = [nodes_BND]
    for layer, adjacency_BNN in enumerate(orders):
        sums_BND = adjacency_BNN @ (nodes_BND @ message_LDD[layer].T)
        if leaky and layer < len(orders) - 1:
            sums_BND = F.leaky_relu(sums_BND, LEAK)
        hidden.append(hidden[-1] * sums_BND)
    return hidden[1:]


def propagate(
    first_BNN: Tensor, nodes_BND: Tensor, message_LDD: Tensor, *, config: GraphConfig, leaky: bool
) -> list[Tensor]:
    """Return ``H(1) .. H(L)`` by eqs. (4)-(6), each ``[B, N, D]``.

    Args:
        first_BNN: The generator's output; ``[1, N, N]`` when all rows share it.
        nodes_BND: ``H(0)``.
        message_LDD: ``W_g`` of each layer.
        config: How the graph is refined.
        leaky: As in :func:`pass_messages`.
    """
    if len(first_BNN) != len(nodes_BND) or config.normalise != "minmax":
        orders = refined_orders(first_BNN, len(message_LDD), config=config)
        return pass_messages(orders, nodes_BND, message_LDD, leaky=leaky)
    hidden: tuple[Tensor, ...] = _Propagate.apply(  # type: ignore[no-untyped-call]
        first_BNN, nodes_BND, message_LDD, config, leaky
    )
    return list(hidden)


@dataclass
class _Chunk:
    """What the forward leaves for the backward: one entry per layer."""

    raw: list[Tensor] = field(default_factory=list)
    """Adjacency before refinement."""
    refined: list[Tensor] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)
    low: list[Tensor] = field(default_factory=list)
    """Least entry."""
    rate: list[Tensor] = field(default_factory=list)
    """One over the spread."""
    sums: list[Tensor] = field(default_factory=list)
    """Sums of messages, before the activation."""

    def refine(self, raw_CNN: Tensor, config: GraphConfig, support_CNN: Tensor | None) -> None:
        """Append one layer: scale, keep what is largest (or the given support), symmetrise."""
        low_C11, high_C11 = raw_CNN.amin((1, 2), keepdim=True), raw_CNN.amax((1, 2), keepdim=True)
        rate_C11 = 1 / (high_C11 - low_C11 + EPSILON)
        scaled_CNN = (raw_CNN - low_C11).mul_(rate_C11)
        kept_CNN = kept(scaled_CNN, config=config) if support_CNN is None else support_CNN
        scaled_CNN.mul_(kept_CNN)
        if support_CNN is None and config.self_loop == "one":
            scaled_CNN.diagonal(dim1=1, dim2=2).fill_(1)
        self.raw.append(raw_CNN)
        self.refined.append(_symmetric(scaled_CNN))
        self.kept.append(kept_CNN)
        self.low.append(low_C11)
        self.rate.append(rate_C11)

    def refine_backward(self, layer: int, grad_CNN: Tensor) -> Tensor:
        """Return a layer's raw gradient from that of its kept entries, which it overwrites."""
        rate_C11, raw_CK = self.rate[layer], self.raw[layer].flatten(1)
        grad_CK = grad_CNN.mul_(self.kept[layer]).mul_(rate_C11).flatten(1)
        total_C1 = grad_CK.sum(dim=1, keepdim=True)
        weighted_C1 = torch.linalg.vecdot(grad_CK, raw_CK)[:, None]
        weighted_C1 = (weighted_C1 - self.low[layer][:, 0] * total_C1) * rate_C11[:, 0]
        lowest_C1, highest_C1 = extremes(raw_CK)
        grad_CK.scatter_add_(1, highest_C1, -weighted_C1)
        grad_CK.scatter_add_(1, lowest_C1, weighted_C1 - total_C1)
        return grad_CNN


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        first_BNN: Tensor,
        nodes_BND: Tensor,
        message_LDD: Tensor,
        config: GraphConfig,
        leaky: bool,
    ) -> tuple[Tensor, ...]:
        L = len(message_LDD)
        hidden = tuple(torch.empty_like(nodes_BND) for _ in range(L))
        chunks = []
        for rows in chunks_of(first_BNN):
            nodes_CND = nodes_BND[rows]
            first_CNN = first_BNN[rows].contiguous()
            messages_CNLD = messages(nodes_CND, message_LDD)
            chunk, before_CND = _Chunk(), nodes_CND
            for layer in range(L):
                _next_order(chunk, layer, first_CNN, config)
                sums_CND = chunk.refined[layer] @ messages_CNLD[:, :, layer]
                chunk.sums.append(sums_CND)
                if leaky and layer < L - 1:
                    sums_CND = F.leaky_relu(sums_CND, LEAK)
                before_CND = torch.mul(before_CND, sums_CND, out=hidden[layer][rows])
            chunks.append(chunk)
        ctx.chunks, ctx.config, ctx.leaky = chunks, config, leaky
        ctx.save_for_backward(first_BNN, nodes_BND, message_LDD, *hidden[:-1])
        return hidden

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        first_BNN, nodes_BND, message_LDD, *hidden = ctx.saved_tensors
        L, D, _ = message_LDD.shape
        grad_first_BNN = torch.empty_like(first_BNN)
        grad_nodes_BND = torch.empty_like(nodes_BND)
        grad_message_LDD = torch.zeros_like(message_LDD)
        before = [nodes_BND, *hidden]
        for chunk, rows in zip(ctx.chunks, chunks_of(first_BNN), strict=True):
            nodes_CND = nodes_BND[rows]
            messages_CNLD = messages(nodes_CND, message_LDD)
            grad_messages_CNLD = torch.empty_like(messages_CNLD)
            grad_CND = grads[L - 1][rows]
            grad_orders: list[Tensor] = []
            for layer in reversed(range(L)):
                sums_CND = chunk.sums[layer]
                grad_sums_CND = grad_CND * before[layer][rows]
                if ctx.leaky and layer < L - 1:
                    slope_CND = (sums_CND > 0).to(sums_CND).clamp_(min=LEAK)
                    grad_sums_CND.mul_(slope_CND)
                    sums_CND = sums_CND * slope_CND
                grad_CND = grad_CND * sums_CND
                if layer:
                    grad_CND += grads[layer - 1][rows]
                grad_orders.append(_symmetric_product(grad_sums_CND, messages_CNLD[:, :, layer]))
                grad_messages_CNLD[:, :, layer] = chunk.refined[layer] @ grad_sums_CND
            grad_flat = grad_messages_CNLD.view(-1, L * D)
            grad_nodes_BND[rows] = grad_CND + (grad_flat @ message_LDD.reshape(L * D, D)).view_as(
                grad_CND
            )
            grad_message_LDD += (grad_flat.T @ nodes_CND.reshape(-1, D)).view(L, D, D)
            grad_first_BNN[rows] = _orders_backward(chunk, grad_orders[::-1], ctx.config)
        return grad_first_BNN, grad_nodes_BND, grad_message_LDD, None, None


def chunks_of(first_BNN: Tensor) -> list[slice]:
    """Return the batch's rows in chunks; on a GPU the whole batch is one."""
    B, N, _ = first_BNN.shape
    size = max(1, CHUNK_ENTRIES // (N * N)) if first_BNN.device.type == "cpu" else max(1, B)
    return [slice(start, min(B, start + size)) for start in range(0, B, size)]


def messages(nodes_CND: Tensor, message_LDD: Tensor) -> Tensor:
    """Return ``[C, N, L, D]``, ``W_g`` of each layer times ``H(0)``, as one product."""
    C, N, D = nodes_CND.shape
    return (nodes_CND.reshape(C * N, D) @ message_LDD.reshape(-1, D).T).view(C, N, -1, D)


def _symmetric(kept_CNN: Tensor) -> Tensor:
    """Return the mean of a matrix and its transpose."""
    return (kept_CNN + kept_CNN.mT).mul_(0.5)


def _symmetric_product(left_CNX: Tensor, right_CNX: Tensor) -> Tensor:
    """Return the mean of ``left @ right^T`` and its transpose."""
    product_CNN = left_CNX @ right_CNX.mT
    return product_CNN.baddbmm_(right_CNX, left_CNX.mT, beta=0.5, alpha=0.5)


def extremes(raw_CK: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``[C, 1]``, where each row's least and greatest entry stand, the first of equals."""
    if raw_CK.device.type == "cpu":  # several times faster than torch's
        raw = raw_CK.numpy()
        low, high = raw.argmin(axis=1, keepdims=True), raw.argmax(axis=1, keepdims=True)
        return torch.from_numpy(low), torch.from_numpy(high)
    return raw_CK.argmin(dim=1, keepdim=True), raw_CK.argmax(dim=1, keepdim=True)


def _next_order(chunk: _Chunk, layer: int, first_CNN: Tensor, config: GraphConfig) -> None:
    """Append a layer's adjacency, by ``graph.power``."""
    if layer == 0:
        chunk.refine(first_CNN, config, None)
    elif config.power == "same":
        chunk.refined.append(chunk.refined[0])
    elif config.power == "raw":
        chunk.refine(chunk.raw[-1] @ chunk.raw[0], config, None)
    else:
        support_CNN = chunk.refined[0] != 0
        chunk.refine(chunk.refined[-1] @ chunk.refined[0], config, support_CNN)


def _orders_backward(chunk: _Chunk, grad_orders: list[Tensor], config: GraphConfig) -> Tensor:
    """Return the gradient of the generator's output from those of the refined orders."""
    last = len(grad_orders) - 1
    if config.power == "same":
        return chunk.refine_backward(0, torch.stack(grad_orders).sum(dim=0))
    if config.power == "refined":
        first_CNN = chunk.refined[0]
        for layer in range(last, 0, -1):
            grad_CNN = chunk.refine_backward(layer, grad_orders[layer])
            grad_orders[layer - 1] += _symmetric_product(grad_CNN, first_CNN)
            grad_orders[0] += _symmetric_product(chunk.refined[layer - 1], grad_CNN.mT)
        return chunk.refine_backward(0, grad_orders[0])
    grad_first_CNN: Tensor | None = None
    grad_CNN = chunk.refine_backward(last, grad_orders[last])
    for layer in range(last, 0, -1):
        through_CNN = chunk.raw[layer - 1].mT @ grad_CNN
        grad_first_CNN = through_CNN if grad_first_CNN is None else grad_first_CNN + through_CNN
        grad_CNN = grad_CNN @ chunk.raw[0].mT
        grad_CNN += chunk.refine_backward(layer - 1, grad_orders[layer - 1])
    return grad_CNN if grad_first_CNN is None else grad_CNN + grad_first_CNN
