"""``perscen diagnose``: a model's codebook, graph and gates, each looked at by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:  # the commands import torch when called, so that help stays fast
    from components.diagnosis.showing import Finding
    from perscen.data.splits import Splits
    from perscen.diagnostics.looking import Window
    from perscen.models.two_tower import TwoTower

_directory = click.Path(path_type=Path, file_okay=False)
_model = click.argument("model", type=_directory)
_splits = click.argument("splits", type=_directory)
_config = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default="params.yaml",
    show_default=True,
    help="Settings that the trials start from.",
)
_epochs = click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Of every trial; fewer than a full training tell less.",
)
_window = click.option(
    "--window",
    type=click.Choice(["valid", "test"]),
    default="valid",
    show_default=True,
    help="Whose queries are looked at; what is chosen afterwards must not have seen the test's.",
)
_out = click.option(
    "--out",
    type=_directory,
    default="build/diagnose",
    show_default=True,
    help="Where CSV and SVG go.",
)
_work = click.option(
    "--work",
    type=_directory,
    default="build/diagnose/trials",
    show_default=True,
    help="Where finished trials are kept; a comparison that was stopped goes on from there.",
)
_page = click.option(
    "--page",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A Markdown page between whose marks the tables go.",
)


@click.group()
def diagnose() -> None:
    """Look at single parts of a model: codebook, graph, gates.

    Example: perscen diagnose quantiser artifacts/model artifacts/splits
    """


@diagnose.command()
@click.argument("places", nargs=-1, type=_directory, metavar="[MODEL SPLITS]")
@click.option(
    "--clusters",
    type=click.IntRange(min=1),
    help="Instead of a model's vectors, those of so many built clusters.",
)
@click.option(
    "--codes",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Of the codebook beside --clusters.",
)
@click.option("--steps", type=click.IntRange(min=1), default=500, show_default=True)
@_window
@_out
@_page
@click.pass_context
def quantiser(
    ctx: click.Context,
    places: tuple[Path, ...],
    clusters: int | None,
    codes: int,
    steps: int,
    window: Window,
    out: Path,
    page: Path | None,
) -> None:
    """Train the quantiser alone on vectors that stand still; show how a model uses its codes.

    \b
    Examples:
      perscen diagnose quantiser artifacts/model artifacts/splits
      perscen diagnose quantiser --clusters 8 --codes 10
    """  # noqa: D301 (click reads the backspace: keep these lines as they are)
    from components.diagnosis import findings
    from components.diagnosis.showing import check_page, show

    if clusters is not None and not places:
        _refuse(ctx, "window", "is for MODEL and SPLITS: clusters have none")
        made_by = "perscen diagnose quantiser --clusters"
        check_page(page, made_by=made_by)
        found = [findings.alone_on_clusters(clusters, codes=codes, steps=steps)]
        return show(found, out=out, page=page, made_by=made_by)
    if clusters is not None or len(places) != 2:
        raise click.UsageError("give MODEL and SPLITS, or --clusters and neither")
    _refuse(ctx, "codes", "is for --clusters: a model has its own")
    made_by = "perscen diagnose quantiser"
    check_page(page, made_by=made_by)
    model, splits = _open(*places)
    found = findings.codes_of_model(model, splits, window=window, steps=steps)
    return show(found, out=out, page=page, made_by=made_by)


@diagnose.command()
@_splits
@_config
@_epochs
@_work
@_out
@_page
def remedies(
    splits: Path, config: Path, epochs: int, work: Path, out: Path, page: Path | None
) -> None:
    """Train a model per remedy against dead codes, by the same data and seed.

    Example: perscen diagnose remedies artifacts/splits --epochs 4
    """
    _compare("remedies", splits, config, epochs=epochs, work=work, out=out, page=page)


@diagnose.command()
@_splits
@_config
@_epochs
@_work
@_out
@_page
def graph(
    splits: Path, config: Path, epochs: int, work: Path, out: Path, page: Path | None
) -> None:
    """Train a model per way to refine the graph; show recall beside memory and time.

    Example: perscen diagnose graph artifacts/splits --epochs 4
    """
    _compare("graph", splits, config, epochs=epochs, work=work, out=out, page=page)


@diagnose.command()
@_model
@_splits
@_window
@_out
@_page
def gates(model: Path, splits: Path, window: Window, out: Path, page: Path | None) -> None:
    """Show how far the gates are open, by scenario and layer.

    Example: perscen diagnose gates artifacts/model artifacts/splits
    """
    from components.diagnosis import findings
    from components.diagnosis.showing import check_page, show

    made_by = "perscen diagnose gates"
    check_page(page, made_by=made_by)
    found = findings.gates_of_model(*_open(model, splits), window=window)
    show([found], out=out, page=page, made_by=made_by)


@diagnose.command()
@_model
@_splits
@_out
@_page
def figures(model: Path, splits: Path, out: Path, page: Path | None) -> None:
    """Draw the graphs of six test users and the map of scenario preferences.

    The paper's Figs. 4 and 5, for this model.

    Example: perscen diagnose figures artifacts/model artifacts/splits --out docs/results
    """
    from components.diagnosis import findings
    from components.diagnosis.showing import check_page, show_figures

    made_by = "perscen diagnose figures"
    check_page(page, made_by=made_by)
    drawn = findings.case_study(*_open(model, splits))
    show_figures(drawn, out=out, page=page, made_by=made_by)


def _refuse(ctx: click.Context, option: str, why: str) -> None:
    """Refuse an option that was given and would be passed over.

    Raises:
        UsageError: It was.
    """
    if ctx.get_parameter_source(option) is not ParameterSource.DEFAULT:
        raise click.UsageError(f"--{option} {why}")


def _compare(
    what: str,
    splits_dir: Path,
    config: Path,
    *,
    epochs: int,
    work: Path,
    out: Path,
    page: Path | None,
) -> None:
    from components.diagnosis import trials
    from components.diagnosis.showing import check_page, show
    from components.pipeline import PIPELINE
    from components.runner import code_version
    from components.store import open_artifact
    from perscen.config import read_config
    from perscen.data.splits import Splits

    made_by = f"perscen diagnose {what}"
    check_page(page, made_by=made_by)
    settings = read_config(config)
    compare = {"remedies": trials.compare_remedies, "graph": trials.compare_refinements}[what]
    artifact = open_artifact(splits_dir, kind="splits")
    code = code_version(PIPELINE["train"])
    found: Finding = compare(
        Splits.open(artifact.path),
        settings,
        epochs=epochs,
        keep=trials.Kept(work, follows_from=[artifact.manifest.digest, code]),
    )
    show([found], out=out, page=page, made_by=made_by)


def _open(model_dir: Path, splits_dir: Path) -> tuple[TwoTower, Splits]:
    """Return a model and the splits that it was trained on.

    Raises:
        ArtifactError: One of them is not what it should be, or they do not belong together.
    """
    from components.store import open_artifact
    from perscen.data.splits import Splits
    from perscen.errors import ArtifactError
    from perscen.models.families import load_model

    model: Any = open_artifact(model_dir, kind="model")
    splits = open_artifact(splits_dir, kind="splits")
    trained_on = model.manifest.parents.get("splits", "")
    if trained_on != splits.manifest.digest:
        raise ArtifactError(
            f"the model in {model_dir} was trained on splits {trained_on[:12]}, but {splits_dir} "
            f"holds {splits.manifest.digest[:12]}",
            hint="give the splits of the model's own run: elsewhere a row is another user",
        )
    return load_model(model.path), Splits.open(splits.path)
