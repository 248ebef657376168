"""The command line: ``python -m components STEP`` for machines, ``perscen`` for people."""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import click

from components import logs
from components.exit_codes import INTERRUPTED, OUR_BUG, TERMINATED, exit_code
from components.pipeline import PIPELINE, Step
from components.places import Place, is_address
from components.signals import Signals, Terminated
from components.surroundings import Surroundings
from perscen.errors import PerscenError, StorageFull
from perscen.staging import is_full

logger = logging.getLogger(__name__)

_ENVIRONMENT: Final = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "False",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MPLBACKEND": "agg",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TQDM_DISABLE": "1",
}
"""No library phones home, only our own log lines and progress bars are written, and threads that
wait for each other sleep: spinning makes an epoch several times slower beside other work."""

_MODULES: Final = {
    "compare": (
        "components.compare_command:compare",
        "Train many models under one protocol, and write the tables.",
    ),
    "data": ("components.data_commands:data", "Bring logs into the raw layout."),
    "diagnose": (
        "components.diagnose_command:diagnose",
        "Look at a model's codebook, graph and gates.",
    ),
    "params": ("components.settings_commands:params", "Print a complete params.yaml for a recipe."),
    "refresh": ("components.refresh_command:refresh", "Serve a release, once it is tested."),
    "render": ("components.settings_commands:render", "Write dvc.yaml from the pipeline's graph."),
    "reproduce": (
        "components.reproduce_command:reproduce",
        "Make a release again and compare digests.",
    ),
    "retrieve": ("components.retrieve_command:retrieve", "Ask a release for a user's items."),
    "splits": ("components.splits_command:splits", "Bring back the splits of past days."),
    "summary": ("components.summary_command:summary", "Say how the last run ended."),
    "tune": ("components.tune_command:tune", "Search for better settings of a recipe."),
}
"""Where each command for people lives; a module loads only when its command is called."""


class _PlaceType(click.Path):
    """A path, or an address in an object store as it is written."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Place:
        if isinstance(value, str) and is_address(value):
            return value
        path: Path = super().convert(value, param, ctx)  # type: ignore[assignment]
        return path


class _Commands(click.Group):
    """The steps of the pipeline, and what people need besides; modules load when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        return [step.name for step in PIPELINE.steps] + sorted(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name in _MODULES:
            module, name = _MODULES[cmd_name][0].split(":")
            command: click.Command = getattr(importlib.import_module(module), name)
            return command
        names = [step.name for step in PIPELINE.steps]
        return _step_command(PIPELINE[cmd_name]) if cmd_name in names else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            advice = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(exc.message + advice, ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Steps, in the order they run"):
            formatter.write_dl([(step.name, step.summary) for step in PIPELINE.steps])
        with formatter.section("For people"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(_MODULES.items())])


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="perscen")
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json", "text"]),
    default="auto",
    show_default=True,
    help="JSON lines, or text; auto writes text at a terminal.",
)
@click.pass_context
def program(ctx: click.Context, log_format: logs.Format) -> None:
    """Retrain a multi-scenario retrieval model every day and ship it safely.

    \b
    perscen data synthetic            a raw log to start with
    dvc repro                         all steps, only what changed
    perscen summary                   verdict, release, report, an example
    perscen retrieve --user 712 --scenario 1 --k 10

    Completion for your shell: eval "$(_PERSCEN_COMPLETE=bash_source perscen)"
    """  # noqa: D301 (click reads the backspace: keep these lines as they are)
    ctx.obj = Surroundings.of(os.environ)
    command = ctx.invoked_subcommand or ""
    # A step tells what it does; a command for people answers, and only troubles interrupt it.
    # Of the processes that share a step, the first tells it.
    quiet = command in _MODULES or ctx.obj.rank
    level = logging.WARNING if quiet else logging.INFO
    logs.configure(run_id=ctx.obj.run_id, step=command, style=log_format, level=level)


def _step_command(step: Step) -> click.Command:
    """Return the command that runs one step: its inputs, its output, and nothing else."""
    pair = (str, _PlaceType(path_type=Path))
    inputs = " ".join(f"--in {name} PATH" for name in step.inputs)
    epilog = (
        f"Example: python -m components {step.name} --config params.yaml --logical-date 2022-05-05 "
    )
    epilog += f"{inputs} --out {step.output} PATH"

    @click.pass_obj
    def run(
        surroundings: Surroundings,
        config: Path,
        logical_date: datetime,
        inputs: tuple[tuple[str, Place], ...],
        output: tuple[str, Place],
    ) -> None:
        from components.runner import run_step  # heavy: only when a step really runs

        _check_names(step, [name for name, _ in inputs], output[0])
        if surroundings.processes > 1 and step.name != "train":
            raise click.UsageError(f"{step.name} is the work of one process: leave torchrun out")
        run_step(
            step.name,
            config=config,
            logical_date=logical_date.date(),
            inputs=dict(inputs),
            output=output[1],
            surroundings=surroundings,
        )

    options: list[click.Parameter] = [
        click.Option(
            ["--config"], type=click.Path(path_type=Path), default="params.yaml", show_default=True
        ),
        click.Option(
            ["--logical-date"],
            type=click.DateTime(["%Y-%m-%d"]),
            required=True,
            help="Last day of the test window.",
        ),
        click.Option(["--in", "inputs"], type=pair, multiple=True, metavar="NAME PATH"),
        click.Option(["--out", "output"], type=pair, required=True, metavar="NAME PATH"),
    ]
    return click.Command(
        step.name, params=options, callback=run, help=f"{step.summary.capitalize()}.", epilog=epilog
    )


def _check_names(step: Step, inputs: Sequence[str], output: str) -> None:
    """Refuse names the step does not have, and one name given twice.

    Raises:
        UsageError: The command line says something that would be passed over.
    """
    if output != step.output:
        raise click.UsageError(f"{step.name} makes {step.output}, not {output}")
    if unknown := sorted(set(inputs) - set(step.inputs)):
        reads = ", ".join(step.inputs) or "nothing"
        raise click.UsageError(f"{step.name} reads {reads}, not {', '.join(unknown)}")
    if twice := sorted({name for name in inputs if inputs.count(name) > 1}):
        raise click.UsageError(f"--in {', '.join(twice)} is given twice")


def main(argv: list[str] | None = None) -> None:
    """Run the program and leave with the exit code of what happened."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    signals = Signals()
    code = _run(argv, signals)
    signals.ignore()
    if code == TERMINATED:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)  # ended by it, as whoever sent it expects
    sys.exit(code)  # the first process of a container is not ended by its own signal


def _run(argv: list[str] | None, signals: Signals) -> int:
    try:
        # Click answers with the code of a command that left by Exit, and else with its result.
        ended = program.main(args=argv, prog_name="perscen", standalone_mode=False)
    except (KeyboardInterrupt, click.Abort, Terminated) as exc:
        return _stopped(signals.raised or exc)
    except Exception as exc:  # noqa: BLE001 (told, with its traceback where it is our bug)
        return _stopped(signals.raised) if signals.raised else _failed(exc)
    return ended if isinstance(ended, int) else 0


def _stopped(by: BaseException) -> int:
    # A signal that comes as a context is being entered leaves it neither entered nor left: it is
    # left when its generator is let go, which these frames would hold until the process is gone.
    traceback.clear_frames(by.__traceback__)
    if isinstance(by, Terminated):
        logger.warning("terminated; nothing half-written was kept")
        return TERMINATED
    logger.warning("interrupted; nothing half-written was kept")
    return INTERRUPTED


def _failed(error: Exception) -> int:
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, PerscenError):
        return _explain(error)
    if is_full(error):
        return _explain(StorageFull(f"the disk is full: {error}", hint="make room, run it again"))
    logger.error("this is a bug in perscen", exc_info=error)
    return OUR_BUG


def _explain(error: PerscenError) -> int:
    code = exit_code(error)
    told = {"error": type(error).__name__, "exit_code": code, "hint": error.hint}
    logger.error(f"{error.headline}: {error.message}", extra=told)
    return code
