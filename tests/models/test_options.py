"""Every switch composes with every other, agrees with the plain model, and wastes no parameter."""

from __future__ import annotations

import itertools
import platform
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from perscen.data.batches import ItemSource
from perscen.errors import ConfigError
from perscen.models.config import PerscenConfig
from perscen.models.fusion import FUSIONS
from perscen.models.perscen import Perscen
from perscen.training.allocator import keep_freed_memory
from tests.factories import random_splits
from tests.models import reference
from tests.models.contract import catalogue_loss, item_vectors, train, train_users

pytestmark = pytest.mark.medium  # each is quick, all together are not

SPLITS = random_splits(num_users=6, num_items=8, per_user=12)

OPTIONS: dict[str, list[Any]] = {
    "seq.pooling": ["mean", "sum", "max"],
    "interaction": ["gnn", "mlp"],
    "graph.source": ["personal", "shared"],
    "graph.share_mlp": [False, True],
    "graph.power": ["raw", "refined", "same"],
    "graph.self_loop": ["one", "keep", "zero"],
    "graph.normalise": ["minmax", "degree", "none"],
    "graph.keep_ratio": [0.5, 0.0, 1.0],
    "graph.sparsify": ["global_topk", "row_topk", "threshold", "none"],
    "gnn.layers": [3, 1],
    "gnn.activation": ["none", "leaky_relu_except_last"],
    "gnn.share_weights": [False, True],
    "pref.sequence": ["spec", "none"],
    "vq.codebook_size": [3, 0, 1],
    "vq.gradient": ["ste", "residual_only", "literal"],
    "vq.init": ["first_batch", "uniform", "kmeans"],
    "vq.ema_decay": [None, 0.9],
    "vq.revive_after": [None, 1],
    "vq.mask_empty": [False, True],
    "fusion": ["glu", "gru", "direct", "direct_concat"],
    "glu.width": ["out", "fields"],
    "glu.bias": [True, False],
    "glu.init": ["linear", "lecun"],
    "gate_out": ["scalar", "vector"],
    "item_tower.scenario_aware": [True, False],
    "item_tower.share_scenario_encoder": [False, True],
    "score": ["dot", "cosine"],
    "temperature": [1.0, 0.1],
    "learn_temperature": [False, True],
    "item_bias": ["none", "popularity", "segments"],
    "dropout": [0.0, 0.2],
    "exclude_fields": [(), ("user_id",), ("item_id", "history"), ("tag", "dense", "group")],
    "shown_sequence": [False, True],
    "user_scenario": [False, True],
}


def config(**choices: Any) -> PerscenConfig:
    tree: dict[str, Any] = {"emb": {"dim": 4, "init_std": 0.5}, "out_dim": 6}
    for path, value in choices.items():
        *parents, leaf = path.split(".")
        at = tree
        for parent in parents:
            at = at.setdefault(parent, {})
        at[leaf] = value
    return PerscenConfig.model_validate(tree)


def pairwise(options: dict[str, list[Any]], *, seed: int = 0) -> list[dict[str, Any]]:
    """Return few choices in which any two values of any two options meet."""
    rng = np.random.default_rng(seed)
    missing = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(options, 2)
        for i in range(len(options[a]))
        for j in range(len(options[b]))
    }
    rows = []
    while missing:
        candidates = [{k: int(rng.integers(len(v))) for k, v in options.items()} for _ in range(30)]
        (a, i), (b, j) = min(missing)
        for candidate in candidates:
            candidate.update({a: i, b: j})
        met = [set(itertools.combinations(c.items(), 2)) & missing for c in candidates]
        best = max(range(len(candidates)), key=lambda k: len(met[k]))
        missing -= met[best]
        rows.append({k: options[k][i] for k, i in candidates[best].items()})
    return rows


PAIRS = pairwise(OPTIONS)


@pytest.mark.parametrize("choices", PAIRS, ids=[str(n) for n in range(len(PAIRS))])
def test_any_two_settings_compose_and_every_parameter_is_used(choices: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Perscen(SPLITS.schema, config(**choices))
    train(model, SPLITS, steps=2, lr=0.01)
    model.train()
    catalogue_loss(model, SPLITS).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} is never used"
        assert torch.isfinite(parameter.grad).all(), name
    seen = model.eval().inspect(train_users(SPLITS))
    graph = choices["interaction"] == "gnn"
    assert len(seen.adjacency_BNN) == (choices["gnn.layers"] if graph else 0)
    vectors = item_vectors(model, SPLITS)
    assert vectors.shape[2] == model.dim
    assert torch.isfinite(vectors).all()


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"fusion": "gru", "graph.source": "shared"},
        {"vq.ema_decay": 0.9, "vq.init": "kmeans"},
        *({"item_tower.scenario_aware": False, "fusion": fusion} for fusion in FUSIONS),
    ],
    ids=str,
)
def test_mixed_precision_stays_near_full_precision(choices: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Perscen(SPLITS.schema, config(**choices))
    train(model, SPLITS, steps=1, lr=0.01)
    full = catalogue_loss(model, SPLITS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = catalogue_loss(model, SPLITS)
    mixed.backward()
    torch.testing.assert_close(mixed, full, rtol=0.02, atol=0.02)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


PLAIN: list[dict[str, Any]] = [
    {},
    {"graph.power": "refined", "gnn.activation": "leaky_relu_except_last"},
    {"graph.power": "same", "vq.gradient": "literal", "glu.bias": False},
    {"graph.source": "shared", "vq.gradient": "residual_only", "gate_out": "vector"},
    {"graph.share_mlp": True, "gnn.share_weights": True, "graph.keep_ratio": 0.8},
    {"interaction": "mlp", "vq.codebook_size": 0, "glu.width": "fields"},
    {"fusion": "gru", "pref.sequence": "none", "shown_sequence": True},
    {"fusion": "direct", "item_tower.scenario_aware": False, "gnn.layers": 1},
    {"fusion": "direct_concat", "item_tower.share_scenario_encoder": True},
    {"exclude_fields": ("user_id", "item_id", "tag")},
    {"user_scenario": True, "shown_sequence": True, "graph.power": "refined"},
]


@pytest.mark.parametrize("choices", PLAIN, ids=[str(c) for c in PLAIN])
def test_the_model_is_the_plain_one_in_values_and_gradients(choices: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Perscen(SPLITS.schema, config(**{"vq.init": "uniform", **choices}))
    model.start_from(SPLITS)
    model.double()
    users = train_users(SPLITS)
    rows = torch.from_numpy(np.array(SPLITS.train.item)).long()
    source = ItemSource(SPLITS.items)

    def gradients(vectors_BG: Any, items_BG: Any, auxiliary: Any) -> dict[str, torch.Tensor]:
        model.zero_grad()
        ((vectors_BG * items_BG).sum(dim=1).tanh().sum() + auxiliary).backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    encoded = model.encode_users(users)
    catalogue = source.batch(torch.arange(SPLITS.schema.num_item_rows))
    key, inverse = torch.unique(rows * 2 + users.scenario_B, return_inverse=True)
    items = model.encode_items(catalogue, key // 2, key % 2)[inverse]
    ours = gradients(encoded.vectors_BG, items, encoded.auxiliary_loss)

    plain_users, auxiliary = reference.user_vectors(model, users)
    plain_items = reference.item_vectors(model, source.batch(rows), users.scenario_B)
    torch.testing.assert_close(encoded.vectors_BG, plain_users)
    torch.testing.assert_close(items, plain_items)
    torch.testing.assert_close(encoded.auxiliary_loss, auxiliary)
    plain = gradients(plain_users, plain_items, auxiliary)
    for name, gradient in ours.items():
        if name.endswith("table.weight_RD"):
            gradient, plain[name] = gradient[1:], plain[name][1:]  # padding gets none in ours
        torch.testing.assert_close(gradient, plain[name], rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize(
    ("choices", "absent"),
    [
        ({"interaction": "mlp"}, "graph"),
        ({"pref.sequence": "none"}, "quantise"),
        ({"vq.codebook_size": 0}, "quantise"),
        ({"fusion": "direct_concat"}, "gate"),
        ({"item_tower.scenario_aware": False}, "item_preference.encode_scenario"),
        ({"item_tower.share_scenario_encoder": True}, "item_preference.encode_scenario"),
        ({"graph.source": "shared"}, "first_weight"),
        ({"item_bias": "none"}, "score."),
    ],
)
def test_what_is_switched_off_has_no_weights(choices: dict[str, Any], absent: str) -> None:
    with_it, without = (
        Perscen(SPLITS.schema, config(item_bias="popularity")),
        Perscen(SPLITS.schema, config(**choices)),
    )
    assert any(absent in name for name in with_it.state_dict())
    assert not any(absent in name for name in without.state_dict())


def test_users_and_items_differ_more_from_the_start_without_the_units_biases() -> None:
    splits = random_splits(num_users=60, num_scenarios=3)
    users = train_users(splits)

    def apart(**choices: Any) -> list[torch.Tensor]:
        """Return one less the mean cosine of two users, and of two items, in each scenario."""
        torch.manual_seed(0)
        model = Perscen(
            splits.schema, config(**{"emb.dim": 16, "emb.init_std": 0.3, "out_dim": 64, **choices})
        )
        with torch.no_grad():
            vectors_BG = model.eval().encode_users(users).vectors_BG
            items = item_vectors(model, splits)
        of_users = [vectors_BG[users.scenario_B == scenario] for scenario in range(3)]
        return [torch.stack([_unlikeness(rows) for rows in tower]) for tower in (of_users, items)]

    for plain, lecun in zip(apart(), apart(**{"glu.init": "lecun"}), strict=True):
        assert (lecun > 3 * plain).all()


def _unlikeness(vectors_PG: torch.Tensor) -> torch.Tensor:
    cosines_PP = F.cosine_similarity(vectors_PG[:, None], vectors_PG[None], dim=2)
    return 1 - cosines_PP[~torch.eye(len(vectors_PG), dtype=torch.bool)].mean()


def test_an_excluded_field_has_neither_node_nor_rows() -> None:
    model = Perscen(SPLITS.schema, config(exclude_fields=("user_id", "history")))
    assert model.user_fields.names == ("group", "dense")
    assert len(model.user_fields.table.weight_RD) == 6


def test_the_scenario_as_a_user_field_makes_the_graph_one_of_the_user_in_the_scenario() -> None:
    torch.manual_seed(0)
    model = Perscen(SPLITS.schema, config(user_scenario=True, exclude_fields=("user_id",))).eval()
    users = train_users(SPLITS)
    elsewhere = replace(users, scenario_B=1 - users.scenario_B)
    seen, seen_elsewhere = model.inspect(users), model.inspect(elsewhere)
    assert seen.node_names == ("group", "dense", "history", "scenario")
    assert not torch.equal(seen.adjacency_BNN[0], seen_elsewhere.adjacency_BNN[0])
    blind = Perscen(SPLITS.schema, config(exclude_fields=("user_id",))).eval()
    torch.testing.assert_close(
        blind.inspect(users).adjacency_BNN, blind.inspect(elsewhere).adjacency_BNN, rtol=0, atol=0
    )


def test_an_excluded_item_id_keeps_its_rows_for_the_sequences_alone() -> None:
    model = Perscen(SPLITS.schema, config(exclude_fields=("item_id",)))
    assert "item_id" not in model.item_fields.names
    assert "item_id" in model.item_fields.table.starts
    idle = Perscen(
        SPLITS.schema, config(**{"exclude_fields": ("item_id", "history"), "pref.sequence": "none"})
    )
    assert "item_id" not in idle.item_fields.table.starts


def test_a_misspelt_excluded_field_stops_with_the_nearest_right_one() -> None:
    with pytest.raises(ConfigError, match="'user_idd' is not a field") as caught:
        Perscen(SPLITS.schema, config(exclude_fields=("user_idd",)))
    assert "user_id" in caught.value.hint


def test_a_tower_without_any_field_is_refused() -> None:
    everything = ("item_id", "group", "dense", "tag")
    with pytest.raises(ConfigError, match="leaves a tower without any field"):
        Perscen(SPLITS.schema, config(exclude_fields=everything))


def test_glibc_accepts_to_keep_freed_memory_and_other_platforms_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
    monkeypatch.setattr("sys.platform", "darwin")
    assert not keep_freed_memory()
