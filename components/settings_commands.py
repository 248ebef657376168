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


@click.command()
@click.option(
    "--recipe", default="best", show_default=True, help="best ships; paper is for comparison."
)
@click.option("--family", default="perscen", show_default=True, help="The model's family.")
@click.option(
    "--protocol",
    default="slice",
    show_default=True,
    help="Windows, filters and K: slice counts back from the logical date; paper-kuairand and "
    "paper-alimama are the paper's, for the whole archives.",
)
@click.option(
    "--logical-date",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Last day of the test window.  [default: the protocol's]",
)
def params(recipe: str, family: str, protocol: str, logical_date: datetime | None) -> None:
    """Print a complete params.yaml for a recipe, of PERSCEN or of another family.

    \b
    Examples:
      perscen params --recipe paper --family dssm > params.yaml
      perscen params --recipe paper --protocol paper-kuairand > params.yaml
    """  # noqa: D301 (click reads the backspace: keep these lines as they are)
    day = logical_date.date() if logical_date else None
    click.echo(params_yaml(recipe, day, family=family, protocol=protocol), nl=False)


@click.command()
def render() -> None:
    """Write dvc.yaml from the pipeline's graph.

    Example: perscen render && git diff dvc.yaml
    """
    Path("dvc.yaml").write_text(dvc_yaml(), encoding="utf-8")
    click.echo("wrote dvc.yaml")


def params_yaml(
    recipe: str,
    logical_date: date | None = None,
    *,
    family: str = "perscen",
    protocol: str = "slice",
) -> str:
    """Return ``params.yaml`` for a recipe: every setting, with what it means.

    Raises:
        ConfigError: There is no such recipe, family or protocol, or the protocol has another date.
    """
    from perscen.protocols import config_of, protocol_named  # pydantic trees: only when asked

    days = protocol_named(protocol)
    config = config_of(days, recipe=recipe, family=family, logical_date=logical_date)
    told = f"perscen params --recipe {recipe}"
    told += "" if family == "perscen" else f" --family {family}"
    told += "" if protocol == "slice" else f" --protocol {protocol}"
    return config_yaml(config, header=f"# Every setting of a run, from `{told}`.")


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
