"""Feature tables: known, unknown and missing values; scaled numbers; lists."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from perscen.data.features import encode_features, fit_tower, with_ids
from perscen.data.fields import TowerPlan
from perscen.data.splits import FeatureTable, Ragged
from perscen.data.vocabulary import rows_of, text_of, vocabulary_of

PLAN = TowerPlan(categorical=("item_id", "kind"), dense=("price",), bags=("tags",))
TABLE = pa.table(
    {
        "item_id": ["b", "a", "c"],
        "kind": pa.array([9, None, 10]),
        "price": pa.array([0.0, math.e - 1, None]),
        "tags": pa.array([["x", "y"], None, []], pa.list_(pa.string())),
    }
)
ALL = np.ones(3, dtype=np.bool_)


def test_ids_keep_the_order_of_the_table_and_values_come_in_text_order():
    fitted = fit_tower(TABLE, PLAN, tower="item", trained=ALL)
    assert fitted.vocabularies == {
        "item/item_id": ["b", "a", "c"],
        "item/kind": ["10", "9"],
        "item/tags": ["x", "y"],
    }
    assert [field.num_rows for field in fitted.schema.categorical] == [5, 4]
    assert fitted.table.ids.tolist() == ["", "", "b", "a", "c"]


def test_rows_are_unknown_missing_then_known():
    table = fit_tower(TABLE, PLAN, tower="item", trained=ALL).table
    assert table.categorical_RF.tolist() == [[0, 0], [1, 1], [2, 3], [3, 1], [4, 2]]
    assert table.bags[0].offsets.tolist() == [0, 0, 1, 3, 4, 4]
    assert table.bags[0].values.tolist() == [1, 2, 3, 1]


def test_numbers_are_scaled_by_their_logs_and_missing_ones_are_the_mean():
    fitted = fit_tower(TABLE, PLAN, tower="item", trained=ALL)
    assert fitted.scalers == {"item/price": pytest.approx((0.5, 0.5))}
    assert fitted.table.dense_RF[:, 0].tolist() == pytest.approx([0, 0, -1, 1, 0])


def test_only_trained_rows_enter_the_id_vocabulary_and_the_scalers():
    fitted = fit_tower(TABLE, PLAN, tower="item", trained=np.array([False, True, False]))
    assert fitted.vocabularies["item/item_id"] == ["a"]
    assert fitted.table.categorical_RF[2:, 0].tolist() == [0, 2, 0]
    # A single value has no spread: it is only centred.
    assert fitted.scalers["item/price"] == pytest.approx((1.0, 1.0))


def test_negative_numbers_count_as_nothing():
    table = TABLE.set_column(2, "price", pa.array([-124.0, 0.0, -1.0]))
    assert fit_tower(table, PLAN, tower="item", trained=ALL).scalers["item/price"] == (0.0, 1.0)


def test_values_of_another_day_that_no_vocabulary_has_are_unknown():
    fitted = fit_tower(TABLE, PLAN, tower="item", trained=ALL)
    later = with_ids(TABLE.slice(0, 1).set_column(1, "kind", pa.array([77])), ["new"], tower="item")
    encoded = encode_features(
        later, PLAN, tower="item", vocabularies=fitted.vocabularies, scalers=fitted.scalers
    )
    assert encoded.categorical_RF[2:].tolist() == [[2, 0], [0, 1]]
    assert encoded.dense_RF[3, 0] == 0
    assert encoded.bags[0].values.tolist() == [1, 2, 3, 1]


def test_a_table_with_many_multi_valued_fields_comes_back_in_their_order(tmp_path):
    table = fit_tower(TABLE, PLAN, tower="item", trained=ALL).table
    bags = tuple(Ragged(np.array([0, 1]), np.array([number])) for number in range(12))
    replace(table, bags=bags).save(tmp_path)
    assert [bag.values.item() for bag in FeatureTable.open(tmp_path).bags] == list(range(12))


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (pa.array([9.0, 0.5, None]), ["9", "0.5", None]),
        (pa.array([9, -124]), ["9", "-124"]),
        (pa.array([True, False]), ["true", "false"]),
        (pa.array(["a", "a"]).dictionary_encode(), ["a", "a"]),
    ],
)
def test_values_have_one_text_whatever_their_type(column, texts):
    assert text_of(pa.chunked_array([column])).to_pylist() == texts


def test_a_column_without_a_single_value_is_all_missing():
    nothing = pa.array([None, None], pa.string())
    assert vocabulary_of(nothing) == []
    assert rows_of(nothing, []).tolist() == [1, 1]
