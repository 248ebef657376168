"""What is seen of a model is what the model does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from components.diagnosis.findings import codes_of_model
from perscen.config import TrainConfig
from perscen.data.batches import UserSource
from perscen.data.splits import Splits
from perscen.diagnostics.gates import gate_table
from perscen.diagnostics.kernel_cost import kernel_cost
from perscen.diagnostics.looking import (
    code_table,
    gate_activations,
    history_codes,
    overlap_table,
)
from perscen.diagnostics.trials import refinements, run_trial, trial_table
from perscen.errors import ConfigError
from perscen.models.config import DssmConfig, EmbeddingConfig, GraphConfig, PerscenConfig, VqConfig
from perscen.models.families import make_model
from perscen.models.graph_kernel import propagate
from perscen.models.sparse_kernel import propagate_sparse
from perscen.schema import FIRST_ROW
from tests.factories import Event, make_splits, random_splits

SPLITS = random_splits()
NAMES = SPLITS.schema.scenarios


def model(**changes: Any) -> Any:
    config = PerscenConfig(emb=EmbeddingConfig(dim=4, init_std=0.5), out_dim=6, **changes)
    torch.manual_seed(0)
    return make_model(SPLITS.schema, config).eval()


def test_codes_are_those_the_model_gives_to_queries_with_clicks_in_their_scenario() -> None:
    towers = model(vq=VqConfig(codebook_size=5, init="uniform"))
    valid, slices = SPLITS.valid, SPLITS.valid_slices
    rows = np.arange(len(valid.user))
    batch = UserSource(SPLITS).batch(valid.user, valid.scenario, slices, rows)
    codes = towers.encode_users(batch).codes_B.numpy()
    own = slices.spec_end > slices.spec_start
    seen = history_codes(towers, SPLITS, window="valid")
    assert np.array_equal(seen.code_Q, codes[own])
    assert np.array_equal(seen.scenario_Q, np.asarray(valid.scenario)[own])
    table = code_table(seen, names=NAMES)
    assert table["queries"].sum() == own.sum()
    assert table["without_history"].sum() == (~own).sum()
    for row in table.iter_rows(named=True):
        assert sum(row[f"code_{n}"] for n in range(5)) == row["queries"]


def test_a_pair_of_scenarios_stands_once_with_the_sparse_one_first() -> None:
    seen = history_codes(model(), SPLITS, window="test")
    (pair,) = overlap_table(seen, names=NAMES).iter_rows(named=True)
    assert {pair["sparse"], pair["rich"]} == set(NAMES)
    assert pair["queries"] <= pair["rich_queries"]
    assert 0 <= pair["divergence"] <= 1
    assert 0 <= pair["on_shared_codes"] <= 1


def test_vectors_that_do_not_differ_have_no_spread() -> None:
    towers = model()
    with torch.no_grad():
        towers.user_preference.project[-1].weight.zero_()
        towers.user_preference.project[-1].bias.fill_(1)
    assert history_codes(towers, SPLITS, window="valid").spread < 1e-3


def strangers(*, valid: bool = True) -> Splits:
    """Return splits in which nobody is seen in more than one window."""
    days = [0, 6, 8] if valid else [0, 0, 8]
    events = [
        Event(user, FIRST_ROW + (user + n) % 30, n % 2, (days[user % 3] * 24 + n) * 3_600_000)
        for user in range(FIRST_ROW, FIRST_ROW + 30)
        for n in range(8)
    ]
    bounds = {"valid_from_ms": 6 * 86_400_000, "test_from_ms": 8 * 86_400_000}
    return make_splits(events, **bounds, num_users=30, num_items=30)


def test_without_clicks_in_their_scenario_there_is_neither_distortion_nor_spread() -> None:
    seen = history_codes(model(), strangers(), window="valid")
    assert (seen.distortion, seen.spread) == (None, None)
    assert code_table(seen, names=NAMES)["queries"].to_list() == [0, 0]
    assert overlap_table(seen, names=NAMES).is_empty()
    with pytest.raises(ConfigError, match="none of the 20 valid queries has clicks"):
        codes_of_model(model(), strangers(), window="valid", steps=5)
    settings = PerscenConfig(emb=EmbeddingConfig(dim=4, init_std=0.5), out_dim=6)
    config = TrainConfig(max_epochs=1, monitor_k=10)
    trial = run_trial(strangers(), settings, config, epochs=1)
    assert (trial.used, trial.distortion, trial.spread) == (0, None, None)
    assert trial_table({"none": trial}, what="remedy")["spread"].to_list() == [None]


def test_a_window_without_queries_is_refused() -> None:
    for look in (history_codes, gate_activations):
        with pytest.raises(ConfigError, match="the valid window has no queries"):
            look(model(), strangers(valid=False), window="valid")


def test_gates_are_summed_up_by_scenario_layer_and_unit() -> None:
    scenario = np.array([0, 0, 1])
    gate = np.array([[0.0, 0.4], [1.0, 0.4], [0.5, 0.8]])
    table = gate_table([{"layer 1": gate}], [scenario], names=("a", "b"))
    first, second = table.iter_rows(named=True)
    assert (first["scenario"], first["queries"], second["queries"]) == ("a", 2, 1)
    assert first["mean"] == pytest.approx(0.45)
    assert first["sd"] == pytest.approx(gate[:2].std())
    assert (first["near_0"], first["near_1"]) == (0.25, 0.25)
    # Unit means are (0.5, 0.4) and (0.5, 0.8), so (0.5, 0.6) in both scenarios alike.
    assert (first["apart"], second["apart"]) == (pytest.approx(0.1), pytest.approx(0.1))


def test_gates_of_blocks_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    towers = model()
    whole = gate_activations(towers, SPLITS, window="valid")
    assert whole["layer"].unique(maintain_order=True).to_list() == [
        "layer 1",
        "layer 2",
        "layer 3",
        "final",
    ]
    monkeypatch.setattr("perscen.diagnostics.looking._AT_ONCE", 7)
    blocks = gate_activations(towers, SPLITS, window="valid")
    for column in ("mean", "sd", "apart", "near_0", "near_1"):
        np.testing.assert_allclose(blocks[column], whole[column], atol=1e-6)


def test_a_model_without_a_part_says_so_in_words() -> None:
    dssm = make_model(SPLITS.schema, DssmConfig())
    for look, part in ((history_codes, "codebook"), (gate_activations, "gate")):
        with pytest.raises(ConfigError, match=rf"the model \(dssm\) has no {part} to look at"):
            look(dssm, SPLITS, window="valid")
    with pytest.raises(ConfigError, match="has no codebook"):
        history_codes(model(vq=VqConfig(codebook_size=0)), SPLITS, window="valid")
    with pytest.raises(ConfigError, match="has no gate"):
        gate_activations(model(fusion="direct_concat"), SPLITS, window="valid")
    with pytest.raises(ConfigError, match=r"\(dssm\) without a feature graph"):
        refinements(DssmConfig())
    with pytest.raises(ConfigError, match="without a feature graph"):
        refinements(PerscenConfig(interaction="mlp"))


def test_refinements_change_the_graph_alone() -> None:
    base = PerscenConfig(graph=GraphConfig(power="refined", keep_ratio=0.7), out_dim=8)
    by_name = refinements(base)
    for name, changed in by_name.items():
        assert changed.model_copy(update={"graph": base.graph}) == base, name
        assert changed.graph.power == ("same" if name == "one graph for all layers" else "refined")
    assert by_name["degrees"].graph.keep_ratio == 0.7
    assert len({config.graph.model_dump_json() for config in by_name.values()}) == len(by_name)


def test_a_trial_says_how_a_short_training_went() -> None:
    config = TrainConfig(max_epochs=9, monitor_k=10)
    settings = PerscenConfig(emb=EmbeddingConfig(dim=4, init_std=0.5), out_dim=6)
    trial = run_trial(SPLITS, settings, config, epochs=2)
    assert trial.epochs == 2
    assert trial.best_epoch in (1, 2)
    assert set(trial.recall) == set(NAMES)
    assert trial.used is not None
    assert trial.used + (trial.dead or 0) == settings.vq.codebook_size
    without = settings.model_copy(update={"vq": VqConfig(codebook_size=0)})
    table = trial_table(
        {"codes": trial, "none": run_trial(SPLITS, without, config, epochs=1)}, what="remedy"
    )
    assert table["used"].to_list() == [trial.used, None]
    assert {"remedy", "macro_recall", f"recall/{NAMES[0]}"} <= set(table.columns)


def test_edges_keep_less_for_the_backward_than_matrices() -> None:
    config = GraphConfig(power="same", sparsify="row_topk", keep_ratio=1 / 16)
    by_matrix, by_edge = (
        kernel_cost(config, layers=2, num_nodes=64, dim=4, rows=8, way=way)
        for way in (propagate, propagate_sparse)
    )
    assert by_edge.held_mb < by_matrix.held_mb / 3
    assert by_edge.edges == by_matrix.edges
    assert 1 / 64 < by_edge.edges <= 2 / 16
