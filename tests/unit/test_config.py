"""A typo in the settings stops the run, by name."""

from __future__ import annotations

from datetime import date

import pytest

from perscen.config import DataConfig, SplitConfig, parse_config, read_config
from perscen.errors import ConfigError

GOOD = {
    "run": {"logical_date": "2022-05-05"},
    "split": {"train_days": 7, "valid_days": 2, "test_days": 2},
    "model": {"family": "perscen"},
}


def test_what_is_not_said_has_the_papers_defaults():
    config = parse_config(GOOD, origin="params.yaml")
    assert config.run.logical_date == date(2022, 5, 5)
    assert (config.model.emb.dim, config.model.gnn.layers, config.model.vq.codebook_size) == (
        16,
        3,
        10,
    )


@pytest.mark.parametrize(
    ("split", "days"),
    [
        ({"train_days": 14, "valid_days": 1, "test_days": 2}, 17),
        ({"train_days": 1, "valid_days": 1, "test_days": 1}, 3),
        (
            {
                "train": ("2022-04-01", "2022-04-20"),
                "valid": ("2022-04-22", "2022-04-23"),
                "test": ("2022-04-30", "2022-04-30"),
            },
            30,
        ),
    ],
)
def test_the_data_that_hold_a_splits_windows(split, days):
    split = SplitConfig.model_validate(split)
    assert DataConfig.holding(split).window_days == split.num_days == days


@pytest.mark.parametrize(
    ("section", "value", "match"),
    [
        (
            "train",
            {"patiense": 3},
            r"p.yaml: train.patiense is not a setting. Did you mean 'patience'\?",
        ),
        ("train", {"optim": {"lrr": 1}}, r"train.optim.lrr is not a setting. Did you mean 'lr'\?"),
        ("train", {"optim": {"lr": -1}}, r"train.optim.lr: .*greater than 0 \(got -1\)"),
        ("trian", {}, r"trian is not a setting. Did you mean 'train'\?"),
        (
            "model",
            {"family": "persen"},
            r"model.family: 'persen' is not a family. Did you mean 'perscen'\? Known: adin, dssm, ",
        ),
        ("model", {"fusion": "glu"}, "model.family is missing. Known: adin, dssm, "),
        (
            "model",
            {"family": "perscen", "vq": {"betta": 1}},
            r"model.vq.betta is not a setting of perscen. Did you mean 'beta'\?",
        ),
        (
            "model",
            {"family": "dssm", "vq": {"beta": 1}},
            "model.vq is not a setting of dssm. perscen has it, dssm does not. Known: .*widths",
        ),
        ("model", {"family": "dssm", "widths": []}, "model.widths: .*at least 1 item"),
        (
            "model",
            {"family": "dssm", "form": "single", "use_spec_sequence": True},
            "^p.yaml: model: use_spec_sequence has no meaning with form: single, .* alone$",
        ),
        ("split", {"train_days": 3}, r"^p.yaml: split: give .*; not a mix$"),
        (
            "split",
            {"train_days": 9, "valid_days": 2, "test_days": 2},
            r"^p.yaml: split needs 13 days .* keeps 11$",
        ),
        ("run", {"logical_date": "someday"}, "run.logical_date"),
    ],
)
def test_a_wrong_setting_stops_the_run_by_name(section, value, match):
    with pytest.raises(ConfigError, match=match):
        parse_config({**GOOD, section: value}, origin="p.yaml")


@pytest.mark.parametrize(
    ("text", "match"), [("- a\n", "list, expected a mapping"), ("a: [", "not readable as YAML")]
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text, match):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=match):
        read_config(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"params.yaml does not exist"):
        read_config(tmp_path / "params.yaml")
