"""Messages by edges are the messages by whole matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from perscen.models import feature_graph, graph_kernel, sparse_kernel
from perscen.models.config import EmbeddingConfig, GnnConfig, GraphConfig, PerscenConfig
from perscen.models.feature_graph import GraphInteraction, messages_of
from perscen.models.graph_kernel import propagate
from perscen.models.sparse_kernel import propagate_sparse


def run(kernel: Any, shapes: list[tuple[int, ...]], **options: Any) -> list[Tensor]:
    """Return the hidden states and all gradients of some weighted sum of them."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    inputs = [draw(*shape).requires_grad_() for shape in shapes]
    hidden = kernel(*inputs, **options)
    loss = sum((h * draw(*h.shape)).sum() for h in hidden)
    return [*hidden, *torch.autograd.grad(loss, inputs)]


@pytest.mark.parametrize("loops", ["one", "keep", "zero"])
@pytest.mark.parametrize("sparsify", ["global_topk", "row_topk"])
@pytest.mark.parametrize("keep_ratio", [0.0, 0.2, 1.0])
def test_edges_give_the_values_and_gradients_of_matrices(
    loops: Any, sparsify: Any, keep_ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_kernel, "CHUNK_ENTRIES", 2 * 64)  # several chunks, the last not full
    config = GraphConfig(power="same", self_loop=loops, sparsify=sparsify, keep_ratio=keep_ratio)
    shapes = [(5, 8, 8), (5, 8, 3), (3, 3, 3)]
    for leaky in (False, True):
        by_matrix, by_edge = (
            run(kernel, shapes, config=config, leaky=leaky)
            for kernel in (propagate, propagate_sparse)
        )
        for whole, edges in zip(by_matrix, by_edge, strict=True):
            torch.testing.assert_close(edges, whole, rtol=1e-9, atol=1e-11)


def test_of_equal_entries_both_keep_the_same() -> None:
    config = GraphConfig(power="same", self_loop="keep", keep_ratio=0.3)
    first = torch.randint(3, (4, 6, 6), generator=torch.Generator().manual_seed(0)).float()
    nodes, weights = torch.randn(4, 6, 2), torch.randn(2, 2, 2)
    whole, edges = (
        kernel(first, nodes, weights, config=config, leaky=False)
        for kernel in (propagate, propagate_sparse)
    )
    torch.testing.assert_close(edges, whole)


@pytest.mark.parametrize("power", ["raw", "refined", "same"])
def test_with_one_layer_every_power_fits(power: Any) -> None:
    config = GraphConfig(power=power, keep_ratio=0.3)
    assert sparse_kernel.fits(1, config=config)
    shapes = [(2, 6, 6), (2, 6, 3), (1, 3, 3)]
    whole, edges = (
        run(kernel, shapes, config=config, leaky=False) for kernel in (propagate, propagate_sparse)
    )
    for of_matrix, of_edges in zip(whole, edges, strict=True):
        torch.testing.assert_close(of_edges, of_matrix, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "changes",
    [
        {"power": "raw"},
        {"power": "refined"},
        {"sparsify": "none"},
        {"sparsify": "threshold"},
        {"normalise": "degree"},
        {"source": "shared"},
        {"keep_ratio": 0.5},
    ],
    ids=str,
)
def test_what_is_not_thin_or_of_another_form_goes_by_matrices(changes: dict[str, Any]) -> None:
    thin = {"power": "same", "keep_ratio": sparse_kernel.THIN}
    wide = sparse_kernel.WIDE
    assert messages_of(wide, 3, config=GraphConfig(**thin), on_cpu=True) is propagate_sparse
    config = GraphConfig(**{**thin, **changes})
    assert messages_of(wide, 3, config=config, on_cpu=True) is propagate
    assert messages_of(wide - 1, 3, config=GraphConfig(**thin), on_cpu=True) is propagate
    assert messages_of(wide, 3, config=GraphConfig(**thin), on_cpu=False) is propagate


def test_a_model_computes_the_same_by_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = GraphConfig(power="same", sparsify="row_topk", keep_ratio=0.25)
    config = PerscenConfig(emb=EmbeddingConfig(dim=3), gnn=GnnConfig(layers=2), graph=graph)
    torch.manual_seed(0)
    interaction, nodes = GraphInteraction(8, config), torch.randn(3, 8, 3)
    by_matrices = interaction(nodes)
    used: list[str] = []
    monkeypatch.setattr(sparse_kernel, "WIDE", 8)
    monkeypatch.setattr(sparse_kernel, "THIN", 0.25)

    def watched(*args: Any, **options: Any) -> list[Tensor]:
        used.append("edges")
        return propagate_sparse(*args, **options)

    monkeypatch.setattr(feature_graph, "propagate_sparse", watched)
    for edges, whole in zip(interaction(nodes), by_matrices, strict=True):
        torch.testing.assert_close(edges, whole, rtol=1e-5, atol=1e-6)
    assert used == ["edges"]
