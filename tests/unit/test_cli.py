"""The command line says what it wants, what went wrong, and leaves with the code of it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import click
import pytest

from components import cli, runner
from components.exit_codes import EXIT_CODES
from components.pipeline import PIPELINE
from perscen import errors
from tests.unit.conftest import GATE

STEPS = [step.name for step in PIPELINE.steps]
PARAMS = """
run: {logical_date: 2022-05-05}
split: {train_days: 7, valid_days: 2, test_days: 2}
model: {family: perscen}
"""


@pytest.fixture
def gate_raises(monkeypatch) -> Callable[[BaseException], None]:
    """Make whatever step is run raise."""

    def plant(error: BaseException) -> None:
        monkeypatch.setattr(runner, "run_step", mock.Mock(side_effect=error))

    return plant


def commands() -> list[tuple[str, ...]]:
    """Every command there is, those inside groups too."""
    found: list[tuple[str, ...]] = []
    with click.Context(cli.program) as ctx:
        for name in cli.program.list_commands(ctx):
            found.append((name,))
            command = cli.program.get_command(ctx, name)
            if isinstance(command, click.Group):
                found += [(name, below) for below in command.list_commands(ctx)]
    return found


def test_help_has_the_steps_in_their_order_and_what_people_need(perscen):
    code, out, _ = perscen("--help")
    assert code == 0
    first_words = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    listed = [word for word in first_words if word in {*STEPS, "data", "retrieve", "summary"}]
    assert listed == [*STEPS, "data", "retrieve", "summary"]
    assert "_PERSCEN_COMPLETE=bash_source" in out


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_the_help_of_every_command_has_an_example(perscen, command):
    code, out, _ = perscen(*command, "--help")
    assert code == 0
    assert "Example" in out
    runs = f"components {command[0]}" if command[0] in STEPS else f"perscen {' '.join(command)}"
    assert runs in out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'?"),
        (["xyzzy"], "No such command 'xyzzy'."),
        (["gate", "--inn", "a", "b"], "--in"),
        (
            [*GATE, "--in", "splits", "x"],
            "gate reads scores, model, indexes, clean_log, not splits",
        ),
        ([*GATE, "--in", "model", "x"], "--in model is given twice"),
        ([*GATE[:-2], "model", "x"], "gate makes verdict, not model"),
        (["gate", "--out", "verdict", "x"], "Missing option '--logical-date'"),
        ([*GATE, "--logical-date", "yesterday"], "'yesterday' does not match the format"),
        (["--log-format", "xml", "gate"], "'xml' is not one of"),
    ],
)
def test_a_wrong_command_line_is_refused_with_what_is_right(perscen, argv, says):
    code, _, err = perscen(*argv)
    assert code == 2
    assert says in err


def test_a_step_without_one_of_its_inputs_names_it(perscen, tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS)
    place = GATE.index("model")
    code, _, err = perscen(*GATE[: place - 1], *GATE[place + 2 :])
    assert code == 78
    assert "gate needs --in model" in err
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


ERRORS = {
    errors.TrainingDiverged: errors.TrainingDiverged("m", hint="h", epoch=1, step=2, scenario="4"),
    errors.ReleaseRefused: errors.ReleaseRefused({"4": ["worse"]}),
}


@pytest.mark.parametrize("kind", EXIT_CODES, ids=lambda kind: kind.__name__)
def test_every_error_leaves_with_its_code_and_tells_machines_in_one_line(
    perscen, gate_raises, kind
):
    error = ERRORS.get(kind) or kind("what happened", hint="what to do")
    gate_raises(error)
    code, out, err = perscen("--log-format", "json", *GATE)
    (line,) = (json.loads(line) for line in err.splitlines())
    assert code == EXIT_CODES[kind] == line["exit_code"]
    assert line["event"] == f"{error.headline}: {error.message}"
    assert (line["error"], line["hint"]) == (kind.__name__, error.hint)
    assert (line["level"], line["step"], out) == ("error", "gate", "")
    assert len(line["run_id"]) == 32


def test_a_person_is_told_in_words(perscen, gate_raises):
    gate_raises(errors.ArtifactError("the model is gone", hint="run `train`"))
    code, _, err = perscen("--log-format", "text", *GATE)
    assert code == 66
    assert err == (
        "  error: an artifact cannot be used: the model is gone\n  what to do: run `train`\n"
    )


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "interrupted; nothing half-written was kept"),
        (OSError(errno.ENOSPC, "No space left on device"), 74, "no space left: the disk is full"),
        (ZeroDivisionError("by zero"), 1, "this is a bug in perscen"),
        (OSError(errno.EACCES, "Permission denied"), 1, "this is a bug in perscen"),
    ],
    ids=["Ctrl-C", "full disk", "bug", "another OSError"],
)
def test_what_is_no_error_of_ours_has_its_code_too(perscen, gate_raises, error, code, says):
    gate_raises(error)
    left, _, err = perscen("--log-format", "json", *GATE)
    line = json.loads(err)
    assert (left, says in line["event"]) == (code, True)
    assert ("Traceback" in line.get("traceback", "")) is (code == 1)


def test_a_command_that_ends_with_a_code_leaves_with_it(perscen, gate_raises):
    gate_raises(click.exceptions.Exit(66))
    assert perscen(*GATE)[0] == 66


def test_a_step_is_told_its_places_and_surroundings(perscen, monkeypatch, tmp_path):
    ran = mock.Mock(side_effect=errors.ConfigError("enough"))
    monkeypatch.setattr(runner, "run_step", ran)
    monkeypatch.setenv("PERSCEN_RUN_ID", "scheduled__2022-05-05")
    monkeypatch.setenv("PERSCEN_RESULT", "result.json")
    argv = [word.replace("at/model", "s3://bucket/model") for word in GATE]
    _, _, err = perscen("--log-format", "json", *argv)
    assert json.loads(err)["run_id"] == "scheduled__2022-05-05"
    told = ran.call_args.kwargs
    assert told["inputs"]["model"] == "s3://bucket/model"
    assert told["inputs"]["scores"] == Path("at/scores")
    assert told["output"] == Path("at/verdict")
    around = told["surroundings"]
    assert (around.run_id, around.result) == ("scheduled__2022-05-05", Path("result.json"))


def test_a_bug_shows_a_person_the_traceback(perscen, gate_raises):
    gate_raises(ZeroDivisionError("by zero"))
    code, _, err = perscen("--log-format", "text", *GATE)
    assert code == 1
    assert "Traceback (most recent call last)" in err
    assert err.rstrip().endswith("ZeroDivisionError: by zero")


def test_of_all_steps_torchrun_may_share_train_alone(perscen, monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "r", "WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    code, _, said = perscen(*GATE)
    assert code == 2
    assert "gate is the work of one process" in said


@pytest.mark.parametrize("name", STEPS)
def test_a_typo_in_the_settings_stops_every_step_before_it_reads_anything(perscen, tmp_path, name):
    (tmp_path / "params.yaml").write_text(PARAMS + "train: {max_epoch: 3}")
    step = PIPELINE[name]
    places = {artifact: str(tmp_path / artifact) for artifact in (*step.inputs, step.output)}
    argv = step.argv(config="params.yaml", logical_date="2022-05-05", places=places)[3:]
    code, _, err = perscen(*argv)
    assert code == 78
    assert "train.max_epoch is not a setting. Did you mean 'max_epochs'?" in err
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.medium
def test_a_shell_completes_commands():
    environment = {**os.environ, "_PERSCEN_COMPLETE": "bash_source"}
    program = Path(sys.executable).with_name("perscen")
    script = subprocess.run([program], env=environment, capture_output=True, text=True, check=True)
    assert "complete -o nosort -F _perscen_completion perscen" in script.stdout
    environment |= {"_PERSCEN_COMPLETE": "bash_complete", "COMP_WORDS": "perscen tr"}
    answer = subprocess.run(
        [program], env=environment | {"COMP_CWORD": "1"}, capture_output=True, text=True, check=True
    )
    assert answer.stdout == "plain,train\n"


@pytest.mark.medium
def test_the_module_is_the_same_program():
    result = subprocess.run(
        [sys.executable, "-m", "components", "trian"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "Did you mean 'train'?" in result.stderr
