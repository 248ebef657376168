"""The messages of a wide and thin graph, by its edges alone instead of by whole matrices.

:func:`propagate_sparse` returns what ``graph_kernel.propagate`` returns, where every layer has the
same graph. The generator's output is still scanned once, to choose the edges; from there on work
and memory go with the edges, not with N * N. ``bench/graph.py`` says from where that pays.

Letters: B rows, N nodes, D node width, L layers; C rows of a chunk, E edges of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from perscen.models.config import GraphConfig
from perscen.models.graph_kernel import LEAK, chunks_of, extremes, messages
from perscen.models.refinement import EPSILON, kept

THIN: Final = 1 / 32
"""Largest ``keep_ratio`` at which edges cost less than the zeros a matrix product works through."""

WIDE: Final = 64
"""Fewest nodes whose thin graphs still have two neighbours each."""


def pays(num_nodes: int, layers: int, *, config: GraphConfig) -> bool:
    """Return whether a graph is of a form that fits, and so wide and thin that edges are faster."""
    return fits(layers, config=config) and num_nodes >= WIDE and config.keep_ratio <= THIN


def fits(layers: int, *, config: GraphConfig) -> bool:
    """Return whether :func:`propagate_sparse` can compute what the settings ask for.

    Powers of a graph are not thin: with several layers only ``power: same`` fits.
    """
    return (
        config.source == "personal"
        and (config.power == "same" or layers == 1)
        and config.normalise == "minmax"
        and config.sparsify in ("global_topk", "row_topk")
    )


def propagate_sparse(
    first_BNN: Tensor, nodes_BND: Tensor, message_LDD: Tensor, *, config: GraphConfig, leaky: bool
) -> list[Tensor]:
    """Return ``H(1) .. H(L)``, each ``[B, N, D]``; arguments as of ``graph_kernel.propagate``.

    On a CPU only, and for settings that :func:`fits` allows.
    """
    hidden: tuple[Tensor, ...] = _Propagate.apply(  # type: ignore[no-untyped-call]
        first_BNN, nodes_BND, message_LDD, config, leaky
    )
    return list(hidden)


@dataclass
class _Edges:
    """The kept entries of a chunk's graphs, before they are made symmetric."""

    place_E: NDArray[np.int64]
    """Flat position in ``[C, N, N]``."""
    row_E: Tensor
    """Node the edge leads to, counted over the chunk, ``[C * N]``."""
    column_E: Tensor
    """Node it comes from, counted likewise."""
    weight_E: Tensor
    matrix: sparse.csr_matrix
    rate_C: Tensor
    """One over the spread of each graph's entries."""
    lowest_C1: Tensor
    """Where each graph's least entry stands, in ``[N * N]``."""
    highest_C1: Tensor
    sums_CNLD: Tensor
    """Sums of messages of each layer, before the activation."""

    def spread(self, rows_XW: Tensor, *, loops: bool) -> Tensor:
        """Return the product with the symmetric graphs, ``[C * N, W]``."""
        rows = rows_XW.numpy()
        sums_XW = torch.from_numpy(self.matrix @ rows)
        sums_XW.add_(torch.from_numpy(self.matrix.T @ rows)).mul_(0.5)
        return sums_XW.add_(rows_XW) if loops else sums_XW

    def write_gradient(self, grad_XW: Tensor, messages_XW: Tensor, out_CK: Tensor) -> None:
        """Add to zeros the gradient of the generator's output, from that of the sums."""
        grad_E = grad_XW.index_select(0, self.row_E) * messages_XW.index_select(0, self.column_E)
        grad_E.addcmul_(
            grad_XW.index_select(0, self.column_E), messages_XW.index_select(0, self.row_E)
        )
        grad_E = grad_E.sum(dim=1).mul_(0.5)
        C, N = len(out_CK), len(grad_XW) // len(out_CK)
        graph_E = self.row_E // N
        total_C, weighted_C = grad_E.new_zeros(2, C)
        total_C.index_add_(0, graph_E, grad_E)
        weighted_C.index_add_(0, graph_E, grad_E * self.weight_E)
        out_CK.view(-1)[torch.from_numpy(self.place_E)] = grad_E * self.rate_C[graph_E]
        # Scaling lets the least and the greatest entry move all others.
        greatest_C = self.rate_C * weighted_C
        least_C = self.rate_C * total_C - greatest_C
        out_CK.scatter_add_(1, self.highest_C1, -greatest_C[:, None])
        out_CK.scatter_add_(1, self.lowest_C1, -least_C[:, None])


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
        loops, chunks = config.self_loop == "one", []
        for rows in chunks_of(first_BNN):
            before_CND = nodes_BND[rows]
            edges = _choose(first_BNN[rows].flatten(1), before_CND.shape[1], config)
            messages_XW = messages(before_CND, message_LDD).view(-1, L * before_CND.shape[2])
            sums_XW = edges.spread(messages_XW, loops=loops)
            edges.sums_CNLD = sums_XW.view(*before_CND.shape[:2], L, -1)
            for layer in range(L):
                sums_CND = edges.sums_CNLD[:, :, layer]
                if leaky and layer < L - 1:
                    sums_CND = F.leaky_relu(sums_CND, LEAK)
                before_CND = torch.mul(before_CND, sums_CND, out=hidden[layer][rows])
            chunks.append(edges)
        ctx.chunks, ctx.loops, ctx.leaky, ctx.shape = chunks, loops, leaky, first_BNN.shape
        ctx.save_for_backward(nodes_BND, message_LDD, *hidden[:-1])
        return hidden

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        nodes_BND, message_LDD, *hidden = ctx.saved_tensors
        L, D, _ = message_LDD.shape
        grad_first_BNN = nodes_BND.new_zeros(ctx.shape)
        grad_nodes_BND = torch.empty_like(nodes_BND)
        grad_message_LDD = torch.zeros_like(message_LDD)
        before = [nodes_BND, *hidden]
        for edges, rows in zip(ctx.chunks, chunks_of(grad_first_BNN), strict=True):
            nodes_CND = nodes_BND[rows]
            grad_sums_CNLD = torch.empty_like(edges.sums_CNLD)
            grad_CND = grads[L - 1][rows]
            for layer in reversed(range(L)):
                sums_CND = edges.sums_CNLD[:, :, layer]
                grad_sums_CND = grad_CND * before[layer][rows]
                if ctx.leaky and layer < L - 1:
                    slope_CND = (sums_CND > 0).to(sums_CND).clamp_(min=LEAK)
                    grad_sums_CND.mul_(slope_CND)
                    sums_CND = sums_CND * slope_CND
                grad_sums_CNLD[:, :, layer] = grad_sums_CND
                grad_CND = grad_CND * sums_CND
                if layer:
                    grad_CND += grads[layer - 1][rows]
            grad_XW = grad_sums_CNLD.view(-1, L * D)
            messages_XW = messages(nodes_CND, message_LDD).view(-1, L * D)
            edges.write_gradient(grad_XW, messages_XW, grad_first_BNN[rows].flatten(1))
            # The graphs are symmetric: what spread the messages takes their gradients back.
            back_XW = edges.spread(grad_XW, loops=ctx.loops)
            through_XD = back_XW @ message_LDD.reshape(L * D, D)
            grad_nodes_BND[rows] = grad_CND + through_XD.view_as(grad_CND)
            grad_message_LDD += (back_XW.T @ nodes_CND.reshape(-1, D)).view(L, D, D)
        return grad_first_BNN, grad_nodes_BND, grad_message_LDD, None, None


def _choose(raw_CK: Tensor, num_nodes: int, config: GraphConfig) -> _Edges:
    """Scale a chunk's graphs and take the entries that stay, exactly as refinement does."""
    C, N = len(raw_CK), num_nodes
    lowest_C1, highest_C1 = extremes(raw_CK)
    low_C1 = raw_CK.gather(1, lowest_C1)
    rate_C1 = 1 / (raw_CK.gather(1, highest_C1) - low_C1 + EPSILON)
    scaled_CNN = (raw_CK - low_C1).mul_(rate_C1).view(-1, N, N)
    mask_CNN = kept(scaled_CNN, config=config)
    place_E = np.flatnonzero(mask_CNN.numpy() > 0)
    row_E = place_E // N
    column_E = row_E // N * N + place_E % N
    weight_E = scaled_CNN.numpy().reshape(-1)[place_E]
    ends = np.concatenate([[0], np.bincount(row_E, minlength=C * N).cumsum()])
    return _Edges(
        place_E=place_E,
        row_E=torch.from_numpy(row_E),
        column_E=torch.from_numpy(column_E),
        weight_E=torch.from_numpy(weight_E),
        matrix=sparse.csr_matrix((weight_E, column_E, ends), (C * N,) * 2),
        rate_C=rate_C1[:, 0],
        lowest_C1=lowest_C1,
        highest_C1=highest_C1,
        sums_CNLD=raw_CK.new_empty(0),
    )
