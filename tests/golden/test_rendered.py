"""Files made from code are what the code makes."""

from __future__ import annotations

import pytest

from components.render import dvc_yaml
from components.settings_commands import params_yaml
from perscen.config import read_config
from tests.conftest import ROOT


def test_dvc_yaml_is_rendered():
    assert (ROOT / "dvc.yaml").read_text() == dvc_yaml(), "run `make render`"


@pytest.mark.medium
def test_params_yaml_is_the_best_recipe():
    config = read_config(ROOT / "params.yaml")
    assert (ROOT / "params.yaml").read_text() == params_yaml("best", config.run.logical_date)
