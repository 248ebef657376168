"""What is compared is data: rows are valid, none is another by a second name, tables know them."""

from __future__ import annotations

import pickle
from functools import reduce

import pytest

from perscen.config import EvaluateConfig
from perscen.errors import ConfigError
from perscen.experiments.rankers import RANKERS
from perscen.experiments.rows import ROWS, TABLES, Row
from perscen.experiments.settings import changed, read_changes, row_named, settings_of
from perscen.models.families import make_model
from tests.factories import random_splits

EVALUATE = EvaluateConfig()
TRAINED = [row for row in ROWS.values() if row.family]


def digest(row: Row) -> str:
    return settings_of(row, evaluate=EVALUATE).digest


@pytest.mark.medium
def test_every_row_can_be_made_into_a_model():
    schema = random_splits().schema
    for row in TRAINED:
        make_model(schema, settings_of(row, evaluate=EVALUATE).model)


def test_every_row_can_be_sent_to_the_process_that_trains_it():
    for row in ROWS.values():
        assert pickle.loads(pickle.dumps(row)) == row


def test_no_row_is_trained_twice_under_two_names():
    by_digest = {digest(row): row.name for row in TRAINED}
    assert sorted(by_digest.values()) == sorted(row.name for row in TRAINED)


def test_rows_without_training_are_the_rankers():
    assert {row.name for row in ROWS.values() if not row.family} == set(RANKERS)


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_a_table_has_known_rows_each_once_and_its_subjects(table):
    names = [name for block in table.blocks for name in block.rows]
    if not table.sweeps:  # sweeps meet at the paper's own values
        assert len(set(names)) == len(names)
    assert set(names) <= set(ROWS)
    for block in table.blocks:
        assert block.subject in ("", *block.rows)
    for name in names:
        assert ROWS[name].beside in ("", *names)


@pytest.mark.parametrize(
    ("sweep", "setting"),
    [
        pytest.param(sweep, setting, id=sweep.name)
        for sweep, setting in zip(
            TABLES["sweeps"].sweeps, ("gnn.layers", "vq.codebook_size", "vq.beta"), strict=True
        )
    ],
)
def test_a_sweep_has_at_each_point_the_row_with_that_value(sweep, setting):
    for value, name in sweep.points.items():
        model = settings_of(ROWS[name], evaluate=EVALUATE).model
        assert reduce(getattr, setting.split("."), model) == value


def test_the_rows_of_one_recipe_differ_from_it_in_what_the_table_says_alone():
    paper = settings_of(ROWS["perscen"], evaluate=EVALUATE)
    ablated = settings_of(ROWS["shared_graph"], evaluate=EVALUATE)
    assert ablated.train == paper.train
    assert ablated.model.model_copy(update={"graph": paper.model.graph}) == paper.model
    assert ablated.model.graph.source == "shared"


def test_a_setting_that_comes_later_leaves_finished_runs_valid_and_a_changed_one_does_not():
    settings = settings_of(ROWS["dssm_m"], evaluate=EVALUATE)
    recorded = settings.tree()
    assert settings.agree_with(recorded)
    earlier = {**recorded, "model": {**recorded["model"]}}
    del earlier["model"]["dropout"]
    assert settings.agree_with(earlier)
    other = {**recorded, "model": {**recorded["model"], "dropout": 0.5}}
    assert not settings.agree_with(other)
    gone = {**recorded, "model": {**recorded["model"], "no_more": 1}}
    assert not settings.agree_with(gone)


def test_seed_and_threads_make_no_other_row():
    plain = digest(ROWS["dssm_m"])
    assert digest(changed(ROWS["dssm_m"], recipe=None, changes={"train.num_threads": 3})) == plain
    assert digest(changed(ROWS["dssm_m"], recipe=None, changes={"train.patience": 3})) != plain


def test_a_family_is_a_row_and_its_recipe_and_settings_can_be_changed():
    row = changed(row_named("dssm"), recipe="best", changes={"model.widths": [8, 4]})
    settings = settings_of(row, evaluate=EVALUATE)
    assert settings.model.widths == (8, 4)
    assert settings.model.item_bias == "segments"
    assert row.title == "dssm (recipe best, model.widths=[8, 4])"


def test_changes_are_read_as_yaml():
    given = ["model.gnn.layers=2", "train.optim.lr=1.0e-3", "model.shown_sequence=true"]
    assert read_changes(given) == {
        "model.gnn.layers": 2,
        "train.optim.lr": 0.001,
        "model.shown_sequence": True,
    }


@pytest.mark.parametrize(
    ("make", "says", "hint"),
    [
        (lambda: row_named("dsm_m"), "no row or family 'dsm_m'; there are youtube_dnn_s", "dssm_m"),
        (lambda: read_changes(["layers=2"]), "--set layers=2 is no setting", "model.gnn.layers=2"),
        (lambda: read_changes(["model.dropout"]), "--set model.dropout is no setting", "--set"),
        (lambda: of_perscen({"model.gnn.layrs": 2}), "model.gnn.layrs.*Did you mean 'layers'", ""),
        (lambda: of_perscen({"model.dropout": 2}), "row perscen: model.dropout", ""),
        (lambda: of_perscen({"model.dropout.p": 1}), "model.dropout is not a group", "params"),
        (lambda: of_perscen({"train.seed": 1}), "train.seed cannot be changed", "--seeds"),
        (lambda: of_perscen({"model.form": "single"}), "dssm, youtube_dnn has it", ""),
        (lambda: settings_of(Row("x", "x", recipe="bst"), evaluate=EVALUATE), "recipe 'bst'", ""),
    ],
)
def test_what_does_not_exist_is_told_with_what_does(make, says, hint):
    with pytest.raises(ConfigError, match=says) as raised:
        make()
    assert hint in raised.value.hint


def of_perscen(changes):
    return settings_of(changed(ROWS["perscen"], recipe=None, changes=changes), evaluate=EVALUATE)
