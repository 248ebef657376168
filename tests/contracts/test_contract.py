"""The contract files: they keep the standard, and what they do not understand stops the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_contracts.compile import arrow_schema
from data_contracts.contract import FOLDER, load_contract, read_contract
from perscen.data import alimama, kuairand
from perscen.data.fields import ALIMAMA, KUAIRAND, FieldPlan
from perscen.errors import ConfigError

CONTRACTS = sorted(path.stem for path in FOLDER.glob("*.yaml"))
SOURCES = [
    ("kuairand", kuairand, KUAIRAND),
    ("alimama", alimama, ALIMAMA),
]


@pytest.mark.parametrize("stem", CONTRACTS)
def test_every_contract_loads_and_names_its_rules_once(stem):
    contract = load_contract(stem)
    assert contract.table.columns
    assert all(rule.description for rule in contract.table.rules)


@pytest.mark.parametrize(("source", "module", "plan"), SOURCES)
def test_the_contracts_have_the_official_columns(source, module, plan):
    for table, columns in (
        ("log", module.LOG_COLUMNS),
        ("users", module.USER_COLUMNS),
        ("items", module.ITEM_COLUMNS),
    ):
        contract = load_contract(f"{source}_{table}").table
        assert tuple(column.name for column in contract.file_columns) == columns


@pytest.mark.parametrize(("source", "module", "plan"), SOURCES)
def test_every_field_of_a_tower_is_a_typed_column_of_its_table(source, module, plan: FieldPlan):
    for table, tower in (("users", plan.user), ("items", plan.item)):
        schema = arrow_schema(load_contract(f"{source}_{table}").table)
        assert schema.names[0] == ("user_id" if table == "users" else "item_id")
        assert set(tower.categorical) | set(tower.dense) | set(tower.bags) <= set(schema.names)
        assert all(str(schema.field(name).type) in {"int64", "double"} for name in tower.dense)
        assert all(str(schema.field(name).type).startswith("list") for name in tower.bags)


@pytest.mark.parametrize("source", ["kuairand", "alimama"])
def test_a_log_maps_to_every_column_of_the_clean_log(source):
    log = load_contract(f"{source}_log").table
    for name in arrow_schema(load_contract("interactions").table).names:
        assert log.canonical(name).required


def test_an_unknown_contract_is_refused_with_those_there_are():
    with pytest.raises(ConfigError) as caught:
        load_contract("kuairand_logs")
    assert "kuairand_log" in caught.value.hint


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("engine: greatExpectations", "engine: soda", "engine 'soda'"),
        ("expect_column_values_to_be_in_set", "expect_the_best", "no row predicate"),
        ("apiVersion:", "apiVersoin:", "apiVersoin"),
        ("name: item_known", "name: scenario_known", "share a name: scenario_known"),
    ],
)
def test_what_a_contract_says_and_nobody_understands_stops_the_run(tmp_path: Path, old, new, says):
    text = (FOLDER / "kuairand_log.yaml").read_text(encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError, match=says):
        read_contract(path)
