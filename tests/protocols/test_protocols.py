"""The paper's protocols: exact dates and filters, tested on small archives of the official form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from components.cli import program
from components.pipeline import PIPELINE
from components.runner import run_step
from components.settings_commands import params_yaml
from perscen.config import parse_config
from perscen.data.alimama import import_alimama
from perscen.data.kuairand import import_kuairand
from perscen.data.splits import Splits
from perscen.errors import ConfigError
from perscen.protocols import PROTOCOLS, config_of, count, protocol_named
from tests.experiments.small import write_splits
from tests.protocols.archives import (
    clicks_of_alimama,
    clicks_of_kuairand,
    write_alimama,
    write_kuairand,
)


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
@pytest.mark.parametrize("recipe", ["paper", "best"])
def test_what_is_printed_is_read_back_as_it_was_meant(protocol: str, recipe: str):
    text = params_yaml(recipe, protocol=protocol, family="perscen")
    meant = config_of(protocol_named(protocol), recipe=recipe, family="perscen")
    assert parse_config(yaml.safe_load(text), origin=protocol) == meant


def test_the_windows_and_filters_are_those_of_the_paper():
    kuairand = config_of(protocol_named("paper-kuairand"), recipe="paper", family="perscen")
    assert kuairand.split.train == (date(2022, 4, 8), date(2022, 4, 21))
    assert kuairand.split.valid == (date(2022, 4, 22), date(2022, 4, 28))
    assert kuairand.split.test == (date(2022, 4, 29), date(2022, 5, 8))
    assert kuairand.split.day_from == "log_date"
    assert kuairand.split.min_interactions_scope == "all"
    assert kuairand.evaluate.ks == (50, 100)
    assert kuairand.train.monitor_k == 100
    assert kuairand.model.gnn.layers == 3
    alimama = config_of(protocol_named("paper-alimama"), recipe="paper", family="perscen")
    assert alimama.split.train == (date(2017, 5, 6), date(2017, 5, 11))
    assert alimama.split.test == (date(2017, 5, 13), date(2017, 5, 13))
    assert alimama.evaluate.ks == (500, 1000)
    assert alimama.train.monitor_k == 1000
    assert (alimama.model.gnn.layers, alimama.model.vq.codebook_size) == (1, 5)
    assert alimama.index.flat_below > 846_811


def test_a_protocol_that_is_none_is_told_from_those_there_are():
    with pytest.raises(ConfigError, match="slice") as caught:
        protocol_named("paper-kuairnd")
    assert caught.value.hint == "did you mean 'paper-kuairand'?"


def test_another_date_than_the_paper_s_is_refused():
    with pytest.raises(ConfigError, match="ends on 2022-05-08, not on 2022-05-05"):
        params_yaml("paper", date(2022, 5, 5), protocol="paper-kuairand")


def test_splits_of_other_days_are_not_held_against_the_paper(tmp_path: Path):
    write_splits(tmp_path / "splits")
    result = CliRunner().invoke(program, ["splits", "counts", str(tmp_path / "splits")])
    assert isinstance(result.exception, ConfigError)
    assert "none of the paper's" in result.exception.message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "write", "bring", "clicks_of"),
    [
        ("paper-kuairand", write_kuairand, import_kuairand, clicks_of_kuairand),
        ("paper-alimama", write_alimama, import_alimama, clicks_of_alimama),
    ],
)
def test_an_archive_of_the_official_form_becomes_the_paper_s_splits(
    tmp_path: Path,
    protocol: str,
    write: Callable[[Path], Path],
    bring: Callable[[Path, Path], object],
    clicks_of: Callable[[Path], Counter[tuple[str, str]]],
):
    archive = write(tmp_path / "archive")
    bring(archive, tmp_path / "raw_log")
    (tmp_path / "params.yaml").write_text(params_yaml("paper", protocol=protocol))
    for step in ("validate", "split"):
        run_step(
            step,
            config=tmp_path / "params.yaml",
            logical_date=PROTOCOLS[protocol].logical_date,
            inputs={name: tmp_path / name for name in PIPELINE[step].inputs},
            output=tmp_path / PIPELINE[step].output,
        )
    splits = Splits.open(tmp_path / "splits")
    expected = clicks_of(archive)
    found = count(splits)
    assert found.num_scenarios == 4
    assert found.num_users == len({who for who, _ in expected})
    assert found.num_interactions == expected.total()
    per_scenario: Counter[str] = Counter()
    for (_, scenario), num in expected.items():
        per_scenario[scenario] += num
    shares = sorted((n / expected.total() for n in per_scenario.values()), reverse=True)
    assert found.shares == pytest.approx(shares)
    if protocol == "paper-alimama":  # a city tier is of the user, so nobody has two scenarios
        clicks_RS = np.diff(splits.histories.spec_offsets).reshape(-1, 4)
        assert ((clicks_RS > 0).sum(axis=1) <= 1).all()

    result = CliRunner().invoke(program, ["splits", "counts", str(tmp_path / "splits")])
    assert result.exit_code == 0, result.exception
    paper = PROTOCOLS[protocol].paper
    assert paper is not None
    for number in (found.num_users, paper.num_users, found.num_interactions, paper.num_items):
        assert f"{number:,}" in result.output
    off = (found.num_users - paper.num_users) / paper.num_users
    assert f"{off:+.1%}" in result.output
