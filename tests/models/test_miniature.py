"""A model small enough to be worked out by hand, eqs. (4)-(15): every number below is.

Two user nodes of width 2, two layers, one query. The comments carry the arithmetic.
"""

from __future__ import annotations

import math

import pytest
import torch

from perscen.data.batches import Packed, UserBatch
from perscen.models.config import (
    EmbeddingConfig,
    GnnConfig,
    GraphConfig,
    PerscenConfig,
    PreferenceConfig,
    VqConfig,
)
from perscen.models.perscen import Perscen
from perscen.schema import Field, Schema, TowerSchema

SCHEMA = Schema(
    user=TowerSchema(
        categorical=(Field(name="a", num_rows=3), Field(name="b", num_rows=3)),
        dense=(),
        bags=(),
        sequence=False,
    ),
    item=TowerSchema(
        categorical=(Field(name="item_id", num_rows=4),), dense=(), bags=(), sequence=False
    ),
    scenarios=("1", "4"),
    num_item_rows=4,
    max_seq_len=5,
)
CONFIG = PerscenConfig(
    emb=EmbeddingConfig(dim=2),
    graph=GraphConfig(keep_ratio=0.75),  # of 4 entries 3: the diagonal and one more
    gnn=GnnConfig(layers=2),
    pref=PreferenceConfig(dim=2),
    vq=VqConfig(codebook_size=3, init="uniform"),
    out_dim=2,
)


def fill(weight: torch.Tensor, values: list) -> None:
    """Set the leading corner of a weight; the rest is 0."""
    values = torch.tensor(values, dtype=weight.dtype)
    with torch.no_grad():
        weight.zero_()
        weight[tuple(slice(0, n) for n in values.shape)] = values


@pytest.fixture
def model() -> Perscen:
    model = Perscen(SCHEMA, CONFIG).double().eval()
    # Rows: padding, 1 and 2 of a, 1 and 2 of b; node vectors e_1 = (1, 0), e_2 = (.5, -1).
    fill(model.user_fields.table.weight_RD, [[0, 0], [0, 0], [1, 0], [0, 0], [0.5, -1]])
    fill(model.item_fields.table.weight_RD, [[0, 0], [0, 0], [2, 0], [0, 2]])
    fill(model.scenario_SD, [[9, 9], [1, -1]])
    graph = model.user_interaction.graph
    fill(
        graph.first_weight,  # columns: two hidden units of MLP_1, two of MLP_2
        [[1, 0, 0, 1], [0, 1, 1, 0], [2, 0, 0, 2], [0, 1, -1, 0]],
    )
    fill(graph.first_bias, [0, 2, 0, 0])
    fill(graph.second_weight_NHH, [[[1, 0], [1, 1]], [[0, 1], [1, 0]]])
    fill(graph.second_bias_N1H, [[[0, -1]], [[1, 0]]])
    fill(graph.third_weight_NHN, [[[1, 1], [0, 1]], [[0, 1], [1, 0]]])
    fill(graph.third_bias_N1N, [[[2, -1]], [[0, 0]]])
    fill(model.user_interaction.message_LDD, [[[1, 1], [0, 1]], [[0, 1], [1, 0]]])
    side = model.user_preference
    fill(side.project[0].weight, [[1, 1], [1, -1]])
    fill(side.project[0].bias, [0, -1])
    fill(side.project[2].weight, [[0.5, 0], [0, 7]])
    fill(side.project[2].bias, [0.25, -1])
    fill(side.quantise.codes_KZ, [[0, 0], [1, -1.5], [2, 0]])
    fill(side.encode_scenario[0].weight, [[1, 0], [0, -2]])
    fill(side.encode_scenario[0].bias, [0])
    fill(side.encode_scenario[2].weight, [[1, 1], [0, -1]])
    fill(side.encode_scenario[2].bias, [0, 0.5])
    fill(side.fuse[0].weight, [[1, 0, 1, 0], [0, -1, 0, 1]])
    fill(side.fuse[0].bias, [-5, 0])
    fill(side.fuse[2].weight, [[2, -1], [0, 1]])
    fill(side.fuse[2].bias, [0, 0.5])
    fusion = model.user_fusion  # rows: W_r1 (2), W_r3 (2)
    fill(fusion.hidden[0].weight, [[1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 2, 0]])
    fill(fusion.hidden[0].bias, [0, -0.5, 1, 0])
    fill(fusion.state[0].weight, [[0, 0, 1, 0], [1, 0, 0, 0]])
    fill(fusion.preference[0].weight, [[1, 0], [0, 1], [2, 0], [0, 0.25]])
    fill(fusion.hidden[1].weight, [[19, 0, 0, 0], [0, 0, 0, 38]])
    fill(fusion.hidden[1].bias, [0, -1, -3, math.log(3)])
    fill(fusion.state[1].weight, [[8, 0], [0, -16], [0, 2], [0, 0]])
    fill(fusion.preference[1].weight, [[-2, 0]])
    fill(fusion.gate.state.weight, [[1, 1]])
    fill(fusion.gate.state.bias, [math.log(3) - 2.25])
    fill(fusion.gate.preference.weight, [[1, 0.5]])
    return model


def sequence(*values: int) -> Packed:
    return Packed(torch.tensor(values, dtype=torch.int64), torch.tensor([0, len(values)]))


USERS = UserBatch(
    categorical_BF=torch.tensor([[2, 2]]),
    dense_BF=torch.zeros(1, 0),
    bags=(),
    history=sequence(),
    spec_history=sequence(2, 3),
    shown=sequence(),
    scenario_B=torch.tensor([1]),
)


def exactly(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_eq_4_gives_each_node_its_own_row(model: Perscen) -> None:
    nodes = model.user_nodes(USERS)
    # x = (1, 0, .5, -1).  MLP_1: relu(2, 1) -> relu(3, 0) -> (5, 2).
    # MLP_2: relu(1, 2) -> relu(3, 1) -> (1, 3).
    assert model.user_interaction.graph(nodes).tolist() == [[[5, 2], [1, 3]]]


def test_the_refined_graph_of_each_layer(model: Perscen) -> None:
    first, second = model.inspect(USERS).adjacency_BNN
    # Scaled by (1, 5): entry (1, 2) is 1/4 and stays, (2, 1) is 0; half of it on either side.
    torch.testing.assert_close(first[0].flatten(), exactly(1, 1 / 8, 1 / 8, 1))
    # A(1)^2 = [[27, 16], [8, 11]]: entry (1, 2) is (16 - 8) / (27 - 8) = 8/19.
    torch.testing.assert_close(second[0].flatten(), exactly(1, 4 / 19, 4 / 19, 1))


def test_eqs_5_and_6_pass_messages_from_the_embeddings(model: Perscen) -> None:
    _, first, second = model.user_interaction(model.user_nodes(USERS))
    # W e = (1, 0), (-.5, -1); sums (.9375, -.125), (-.375, -1); times e.
    torch.testing.assert_close(first[0], exactly(0.9375, 0, -0.1875, 1))
    # W e = (0, 1), (-1, .5); sums (-4/19, 21/19), (-1, 27/38); times h(1).
    torch.testing.assert_close(second[0], exactly(-3.75 / 19, 0, 0.1875, 27 / 38))


def test_eqs_7_to_12_quantise_the_history_and_fuse_the_scenario(model: Perscen) -> None:
    # Pooled (1, 1): hidden (2, 0), z = (1.25, -1); squared distances 2.5625, .3125, 1.5625: code 1.
    # p = z + c = (2.25, -2.5); e_s = (1, -1): hidden (1, 2), p_s = (3, -1.5).
    # Fusion: hidden (2.25 + 3 - 5, 2.5 - 1.5) = (.25, 1), p_hat = (-.5, 1.5).
    seen, encoded = model.inspect(USERS), model.encode_users(USERS)
    assert encoded.codes_B.tolist() == [1]
    assert encoded.auxiliary_loss.item() == pytest.approx(0.3125 + 0.25 * 0.3125)
    torch.testing.assert_close(seen.scenario_preference_BZ[0], exactly(3, -1.5))
    torch.testing.assert_close(seen.preference_BW[0], exactly(-0.5, 1.5))


def test_eqs_13_to_15_gate_the_layers_and_mix_in_the_preference(model: Perscen) -> None:
    # Layer 1: linear (.9375 + .5 - .5, 1 + 1 + 1.5 - .5) = (.9375, 3), gates sigma(0, 0):
    # g = (.46875, 1.5).  Layer 2: linear (-3.75 + 3.75 + 1, 27 - 24 - 1) = (1, 2), gates
    # sigma(3 - 3, ln 3): g = (.5, 1.5).  alpha = sigma(2 + .25 + ln 3 - 2.25) = .75.
    seen = model.inspect(USERS)
    torch.testing.assert_close(seen.gates_BW[0][0], exactly(0.5, 0.5))
    torch.testing.assert_close(seen.gates_BW[1][0], exactly(0.5, 0.75))
    torch.testing.assert_close(seen.alpha[0], exactly(0.75))
    torch.testing.assert_close(model.encode_users(USERS).vectors_BG[0], exactly(0.25, 1.5))
