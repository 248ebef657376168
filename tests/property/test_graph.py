"""What holds of every personal graph and of the messages over it (eqs. 4-6)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perscen.models import graph_kernel
from perscen.models.config import EmbeddingConfig, GnnConfig, GraphConfig, PerscenConfig
from perscen.models.feature_graph import GraphInteraction, PersonalGraph
from perscen.models.graph_kernel import pass_messages, propagate
from perscen.models.refinement import largest, refine, refined_orders

pytestmark = pytest.mark.medium  # each is quick, all together are not

POWERS, LOOPS = ("raw", "refined", "same"), ("one", "keep", "zero")
SPARSE = ("global_topk", "row_topk", "threshold", "none")

graphs = st.builds(
    GraphConfig,
    power=st.sampled_from(POWERS),
    self_loop=st.sampled_from(LOOPS),
    normalise=st.sampled_from(["minmax", "degree"]),
    sparsify=st.sampled_from(SPARSE),
    keep_ratio=st.floats(0, 1),
    threshold=st.floats(0, 1),
)
sizes = st.tuples(st.integers(1, 5), st.integers(2, 6), st.integers(0, 2**16))
few = settings(max_examples=25, deadline=None)


def raw_graphs(batch: int, nodes: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, nodes, nodes, dtype=torch.float64, generator=generator)


@given(graphs, sizes)
@few
def test_a_refined_graph_is_symmetric_and_within_0_and_1(config, size) -> None:
    for order in refined_orders(raw_graphs(*size), 3, config=config):
        assert torch.equal(order, order.mT)
        assert order.min() >= 0
        assert order.max() <= 1


@given(sizes, st.floats(0, 1), st.sampled_from(["raw", "same"]))
@few
def test_with_unit_loops_the_diagonal_is_one_and_the_rest_at_most_twice_what_was_kept(
    size, keep_ratio, power
) -> None:
    _, nodes, _ = size
    config = GraphConfig(keep_ratio=keep_ratio, power=power)
    most = 2 * max(0, int(keep_ratio * nodes**2 + 1e-9) - nodes)
    for order in refined_orders(raw_graphs(*size), 3, config=config):
        assert (order.diagonal(dim1=1, dim2=2) == 1).all()
        assert ((order != 0).flatten(1).sum(dim=1) - nodes <= most).all()


@given(graphs, st.integers(2, 6))
@few
def test_equal_entries_give_a_finite_graph(config, nodes) -> None:
    raw = torch.full((2, nodes, nodes), 3.0)
    for order in refined_orders(raw, 3, config=config):
        assert torch.isfinite(order).all()


@given(sizes, st.floats(0.1, 10), st.floats(-5, 5))
@few
def test_the_first_order_does_not_see_scale_or_shift(size, factor, shift) -> None:
    raw, config = raw_graphs(*size), GraphConfig(sparsify="none")
    torch.testing.assert_close(
        refine(factor * raw + shift, config=config), refine(raw, config=config)
    )


@given(graphs, sizes)
@few
def test_a_graph_does_not_depend_on_the_other_rows_of_the_batch(config, size) -> None:
    raw = raw_graphs(*size)
    together = refined_orders(raw, 3, config=config)
    for row in range(len(raw)):
        alone = refined_orders(raw[row : row + 1], 3, config=config)
        for order, own in zip(together, alone, strict=True):
            torch.testing.assert_close(order[row], own[0])


@given(sizes)
@few
def test_with_one_layer_the_power_has_no_effect(size) -> None:
    raw = raw_graphs(*size)
    orders = [refined_orders(raw, 1, config=GraphConfig(power=power)) for power in POWERS]
    assert torch.equal(orders[0][0], orders[1][0])
    assert torch.equal(orders[0][0], orders[2][0])


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=4),
    st.integers(-1, 7),
)
@few
def test_the_largest_are_kept_and_of_equal_ones_the_first(rows, count) -> None:
    mask = largest(torch.tensor(rows, dtype=torch.float32), count)
    for row, kept in zip(rows, mask.tolist(), strict=True):
        best = sorted(range(6), key=lambda k: (-row[k], k))[: max(count, 0)]
        assert [k for k in range(6) if kept[k]] == sorted(best)


def test_dividing_by_degrees_gives_the_graph_of_a_random_walk_the_eigenvalue_one() -> None:
    config = GraphConfig(normalise="degree", keep_ratio=0.4)
    graph = refine(raw_graphs(3, 6, 0), config=config)
    greatest = torch.linalg.eigvalsh(graph)[:, -1]
    torch.testing.assert_close(greatest, torch.ones_like(greatest))


@pytest.mark.parametrize("power", POWERS)
def test_without_normalisation_the_same_entries_stay_with_their_own_numbers(power: Any) -> None:
    raw = raw_graphs(3, 5, 0)
    plain, scaled = (
        refined_orders(raw, 2, config=GraphConfig(power=power, self_loop="keep", normalise=how))
        for how in ("none", "minmax")
    )
    if power != "refined":  # a product of other numbers has other zeros
        for order, other in zip(plain, scaled, strict=True):
            assert ((order != 0) == (other != 0)).float().mean() > 0.9
    kept = torch.isclose(plain[0].diagonal(dim1=1, dim2=2), raw.diagonal(dim1=1, dim2=2))
    assert torch.equal(kept, plain[0].diagonal(dim1=1, dim2=2) != 0)


def test_row_topk_keeps_the_same_number_in_every_row() -> None:
    config = GraphConfig(sparsify="row_topk", self_loop="zero", keep_ratio=0.5)
    raw = torch.tensor([[[0.0, 5, 4, 1], [9, 0, 8, 7], [1, 2, 0, 3], [6, 5, 4, 0]]])
    kept = refine(raw, config=config)[0] > 0
    expected = torch.tensor([[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]])
    assert torch.equal(kept.int(), expected.int())


@pytest.mark.parametrize(
    ("power", "loop", "sparsify", "leaky"),
    list(itertools.product(POWERS, LOOPS, SPARSE, [False, True])),
)
def test_the_hand_written_backward_is_autograds(
    power: Any, loop: Any, sparsify: Any, leaky: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_kernel, "CHUNK_ENTRIES", 2 * 25)
    config = GraphConfig(power=power, self_loop=loop, sparsify=sparsify)
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)

    inputs = leaf(5, 5, 5), leaf(5, 5, 3), leaf(3, 3, 3)
    ours = propagate(*inputs, config=config, leaky=leaky)
    plain = pass_messages(
        refined_orders(inputs[0], 3, config=config), inputs[1], inputs[2], leaky=leaky
    )
    weights = [torch.randn(h.shape, dtype=h.dtype, generator=generator) for h in plain]

    def gradients(hidden: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        loss = sum((h * w).sum() for h, w in zip(hidden, weights, strict=True))
        return torch.autograd.grad(loss, inputs)  # type: ignore[arg-type]

    for mine, theirs in zip((*ours, *gradients(ours)), (*plain, *gradients(plain)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("power", POWERS)
def test_the_hand_written_backward_is_the_numerical_one(power: Any) -> None:
    config = GraphConfig(power=power)
    generator = torch.Generator().manual_seed(1)
    shapes = (2, 4, 4), (2, 4, 2), (2, 2, 2)
    inputs = [
        torch.randn(*s, dtype=torch.float64, generator=generator, requires_grad=True)
        for s in shapes
    ]
    assert torch.autograd.gradcheck(
        lambda *args: tuple(propagate(*args, config=config, leaky=False)), inputs, atol=1e-4
    )


@given(sizes, st.floats(0.2, 3))
@few
def test_layer_l_is_of_degree_l_plus_1_in_the_embeddings(size, factor) -> None:
    orders = refined_orders(raw_graphs(*size), 3, config=GraphConfig())
    batch, nodes, seed = size
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(batch, nodes, 2, dtype=torch.float64, generator=generator)
    weights = torch.randn(3, 2, 2, dtype=torch.float64, generator=generator)
    scaled = pass_messages(orders, factor * vectors, weights)
    for layer, (of_scaled, plain) in enumerate(
        zip(scaled, pass_messages(orders, vectors, weights), strict=True), start=1
    ):
        torch.testing.assert_close(of_scaled, factor ** (layer + 1) * plain)


@given(sizes, st.randoms(use_true_random=False))
@few
def test_renaming_the_nodes_renames_the_messages(size, random) -> None:
    batch, nodes, seed = size
    new_order = list(range(nodes))
    random.shuffle(new_order)
    generator = torch.Generator().manual_seed(seed)
    orders = refined_orders(raw_graphs(*size), 2, config=GraphConfig())
    vectors = torch.randn(batch, nodes, 2, dtype=torch.float64, generator=generator)
    weights = torch.randn(2, 2, 2, dtype=torch.float64, generator=generator)
    renamed = [order[:, new_order][:, :, new_order] for order in orders]
    for plain, other in zip(
        pass_messages(orders, vectors, weights),
        pass_messages(renamed, vectors[:, new_order], weights),
        strict=True,
    ):
        torch.testing.assert_close(plain[:, new_order], other)


def test_the_shared_graph_is_the_same_for_everybody() -> None:
    config = PerscenConfig(
        emb=EmbeddingConfig(dim=3), gnn=GnnConfig(layers=2), graph=GraphConfig(source="shared")
    )
    interaction = GraphInteraction(4, config)
    for order in interaction.adjacency(torch.randn(5, 4, 3)):
        assert torch.equal(order, order[:1].expand_as(order))


def test_the_onehot_of_eq_4_only_adds_its_column_to_the_first_bias() -> None:
    torch.manual_seed(0)
    nodes, dim = 3, 2
    graph = PersonalGraph(nodes, dim).double()
    vectors = torch.randn(4, nodes, dim, dtype=torch.float64)
    onehot_weight = torch.randn(nodes, nodes, nodes, dtype=torch.float64)  # MLP, input m, hidden
    rows = []
    for m in range(nodes):
        own = slice(m * nodes, (m + 1) * nodes)
        first = torch.cat([graph.first_weight[:, own], onehot_weight[m]])
        read = torch.cat([vectors.flatten(1), torch.eye(nodes).double()[m].expand(4, -1)], dim=1)
        hidden = (read @ first + graph.first_bias[own]).relu()
        hidden = (hidden @ graph.second_weight_NHH[m] + graph.second_bias_N1H[m]).relu()
        rows.append(hidden @ graph.third_weight_NHN[m] + graph.third_bias_N1N[m])
    with torch.no_grad():
        graph.first_bias += torch.cat([onehot_weight[m, m] for m in range(nodes)])
    torch.testing.assert_close(graph(vectors), torch.stack(rows, dim=1))
