"""``perscen params`` and ``perscen render``: the files made from code instead of by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

import click
from pydantic import BaseModel

from components.render import dvc_yaml

if TYPE_CHECKING:  # pydantic trees: only when asked
    from perscen.config import Config

_DEFAULT_DATE = "2022-05-05"


@click.command()
@click.option(
    "--recipe", default="best", show_default=True, help="best ships; paper is for comparison."
)
@click.option("--family", default="perscen", show_default=True, help="The model's family.")
@click.option(
    "--logical-date", type=click.DateTime(["%Y-%m-%d"]), default=_DEFAULT_DATE, show_default=True
)
def params(recipe: str, family: str, logical_date: datetime) -> None:
    """Print a complete params.yaml for a recipe, of PERSCEN or of another family.

    Example: perscen params --recipe paper --family dssm > params.yaml
    """
    click.echo(params_yaml(recipe, logical_date.date(), family=family), nl=False)


@click.command()
def render() -> None:
    """Write dvc.yaml from the pipeline's graph.

    Example: perscen render && git diff dvc.yaml
    """
    Path("dvc.yaml").write_text(dvc_yaml(), encoding="utf-8")
    click.echo("wrote dvc.yaml")


def params_yaml(recipe: str, logical_date: date, *, family: str = "perscen") -> str:
    """Return ``params.yaml`` for a recipe: every setting, with what it means.

    Raises:
        ConfigError: There is no such recipe, or no such family.
    """
    from perscen.config import Config, RunConfig, SplitConfig
    from perscen.recipes import recipe_named

    model, train = recipe_named(recipe, family=family)
    config = Config(
        run=RunConfig(logical_date=logical_date),
        split=SplitConfig(train_days=7, valid_days=2, test_days=2),
        model=model,
        train=train,
    )
    of_family = "" if family == "perscen" else f" --family {family}"
    header = f"# Every setting of a run, from `perscen params --recipe {recipe}{of_family}`."
    return config_yaml(config, header=header)


def config_yaml(config: Config, *, header: str) -> str:
    """Return settings as ``params.yaml`` has them: every one, with what it means."""
    return "\n".join([header, *_lines(config, indent=0)]) + "\n"


def _lines(section: BaseModel, *, indent: int) -> Iterator[str]:
    pad = "  " * indent
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            title = (type(value).__doc__ or "").strip().splitlines()[0]
            yield f"{'' if indent else chr(10)}{pad}{name}:  # {title}"
            yield from _lines(value, indent=indent + 1)
            continue
        for line in wrap(field.description or "", width=96 - len(pad)):
            yield f"{pad}# {line}"
        yield f"{pad}{name}: {_scalar(value)}"


def _scalar(value: object) -> str:
    return json.dumps(value, default=date.isoformat)  # quoted: DVC takes no YAML dates
