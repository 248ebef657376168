"""The personal feature graph, its refinement and the messages over it, eqs. (4)-(6).

Letters: B users or items, N nodes, H hidden width of a generator (= N), D node width, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from perscen.models.config import GraphConfig, PerscenConfig
from perscen.models.graph_kernel import propagate
from perscen.models.precision import full_precision
from perscen.models.refinement import refined_orders
from perscen.models.sparse_kernel import pays, propagate_sparse


class PersonalGraph(nn.Module):
    """Eq. (4): row ``m`` of a user's adjacency is ``MLP_m`` of all the user's node vectors.

    ``onehot(m)`` is a constant input of ``MLP_m``: it only moves the first bias, so there is none.
    All first layers read the same vector and are one matrix product; the later ones are batched.
    """

    def __init__(self, num_nodes: int, dim: int) -> None:
        super().__init__()
        N = H = num_nodes
        self.first_weight = nn.Parameter(_linear(N * dim, N * H, fan_in=N * dim))
        self.first_bias = nn.Parameter(_linear(N * H, fan_in=N * dim))
        self.second_weight_NHH = nn.Parameter(_linear(N, H, H, fan_in=H))
        self.second_bias_N1H = nn.Parameter(_linear(N, 1, H, fan_in=H))
        self.third_weight_NHN = nn.Parameter(_linear(N, H, N, fan_in=H))
        self.third_bias_N1N = nn.Parameter(_linear(N, 1, N, fan_in=H))

    def forward(self, nodes_BND: Tensor) -> Tensor:
        """Return the first-order adjacency ``[B, N, N]``, not refined."""
        N = nodes_BND.shape[1]
        hidden = torch.addmm(self.first_bias, nodes_BND.flatten(1), self.first_weight).relu_()
        hidden_NBH = hidden.view(-1, N, N).transpose(0, 1)
        hidden_NBH = torch.baddbmm(self.second_bias_N1H, hidden_NBH, self.second_weight_NHH).relu_()
        rows_NBN = torch.baddbmm(self.third_bias_N1N, hidden_NBH, self.third_weight_NHN)
        return rows_NBN.transpose(0, 1)


class SharedGenerator(nn.Module):
    """Eq. (4) with one MLP for all nodes, told apart by ``onehot(m)`` (``graph.share_mlp``)."""

    def __init__(self, num_nodes: int, dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(num_nodes * dim, num_nodes)
        self.onehot_NH = nn.Parameter(_linear(num_nodes, num_nodes, fan_in=num_nodes * (dim + 1)))
        self.second = nn.Linear(num_nodes, num_nodes)
        self.third = nn.Linear(num_nodes, num_nodes)

    def forward(self, nodes_BND: Tensor) -> Tensor:
        """Return the first-order adjacency ``[B, N, N]``, not refined."""
        hidden_BNH = (self.first(nodes_BND.flatten(1))[:, None] + self.onehot_NH).relu()
        rows_BNN: Tensor = self.third(self.second(hidden_BNH).relu())
        return rows_BNN


class SharedGraph(nn.Module):
    """One learned adjacency for everybody (``graph.source: shared``)."""

    def __init__(self, num_nodes: int) -> None:
        super().__init__()
        self.adjacency_1NN = nn.Parameter(torch.rand(1, num_nodes, num_nodes))

    def forward(self, nodes_BND: Tensor) -> Tensor:  # noqa: ARG002 - the same for every row
        """Return ``[1, N, N]``."""
        return self.adjacency_1NN


class GraphInteraction(nn.Module):
    """Graph and message passing: ``H(l) = H(l-1) * (A(l) H(0) W(l)^T)``, eqs. (4)-(6)."""

    def __init__(self, num_nodes: int, config: PerscenConfig) -> None:
        super().__init__()
        self._config = config.graph
        self._layers = config.gnn.layers
        self._leaky = config.gnn.activation == "leaky_relu_except_last"
        dim = config.emb.dim
        if config.graph.source == "shared":
            self.graph: nn.Module = SharedGraph(num_nodes)
        elif config.graph.share_mlp:
            self.graph = SharedGenerator(num_nodes, dim)
        else:
            self.graph = PersonalGraph(num_nodes, dim)
        distinct = 1 if config.gnn.share_weights else config.gnn.layers
        self.message_LDD = nn.Parameter(torch.empty(distinct, dim, dim))
        for weight_DD in self.message_LDD:
            nn.init.xavier_uniform_(weight_DD)

    def forward(self, nodes_BND: Tensor) -> list[Tensor]:
        """Return ``h(0) .. h(L)``, each ``[B, N * D]``."""
        first_BNN = self.graph(nodes_BND)
        on_cpu = nodes_BND.device.type == "cpu"
        pass_on = messages_of(nodes_BND.shape[1], self._layers, config=self._config, on_cpu=on_cpu)
        with full_precision(nodes_BND):
            hidden = pass_on(
                first_BNN.to(self.message_LDD.dtype),
                nodes_BND.to(self.message_LDD.dtype),
                self.message_LDD.expand(self._layers, -1, -1),
                config=self._config,
                leaky=self._leaky,
            )
        return [h_BND.flatten(1) for h_BND in (nodes_BND, *hidden)]

    def adjacency(self, nodes_BND: Tensor) -> list[Tensor]:
        """Return the refined adjacency of every layer, each ``[B, N, N]``."""
        first_BNN = self.graph(nodes_BND)
        with full_precision(nodes_BND):
            first_BNN = first_BNN.to(self.message_LDD.dtype)
            orders = refined_orders(first_BNN, self._layers, config=self._config)
        return [order.expand(len(nodes_BND), -1, -1) for order in orders]


class MlpInteraction(nn.Module):
    """Layers ``h(l) = ReLU(W h(l-1) + b)`` in place of graph and messages (ablation "w/o GNN")."""

    def __init__(self, num_nodes: int, config: PerscenConfig) -> None:
        super().__init__()
        width = num_nodes * config.emb.dim
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(config.gnn.layers))

    def forward(self, nodes_BND: Tensor) -> list[Tensor]:
        """Return ``h(0) .. h(L)``, each ``[B, N * D]``."""
        hidden = [nodes_BND.flatten(1)]
        for layer in self.layers:
            hidden.append(layer(hidden[-1]).relu())
        return hidden

    def adjacency(self, nodes_BND: Tensor) -> list[Tensor]:  # noqa: ARG002 - there is no graph
        """Return nothing: there is no graph."""
        return []


def messages_of(
    num_nodes: int, layers: int, *, config: GraphConfig, on_cpu: bool
) -> Callable[..., list[Tensor]]:
    """Return the kernel that is faster for these graphs, of two that compute the same."""
    by_edges = on_cpu and pays(num_nodes, layers, config=config)
    return propagate_sparse if by_edges else propagate


def make_interaction(num_nodes: int, config: PerscenConfig) -> GraphInteraction | MlpInteraction:
    """Return the feature interaction that the settings name."""
    kind = GraphInteraction if config.interaction == "gnn" else MlpInteraction
    return kind(num_nodes, config)


def _linear(*shape: int, fan_in: int) -> Tensor:
    """Return a start as ``nn.Linear`` makes it: uniform within ``1 / sqrt(fan_in)``."""
    bound = 1 / math.sqrt(fan_in)
    return torch.empty(shape).uniform_(-bound, bound)
