"""Runs one step: reads settings, checks inputs, and keeps the output only if it is whole."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

from components.lock import alone
from components.pipeline import PIPELINE, Step
from components.places import (
    Place,
    at_hand,
    fetch_artifact,
    fetch_raw_log,
    is_address,
    sent,
    working_directory,
)
from components.store import Artifact, open_artifact, open_raw_log, staged, write_manifest
from components.surroundings import Surroundings
from perscen.config import Config, read_config
from perscen.digests import json_digest
from perscen.errors import ConfigError
from perscen.manifests import AnyManifest

_ROOT: Final = Path(__file__).resolve().parent.parent
_STATE: Final = ".state"


@dataclass(frozen=True)
class Task:
    """What a step is given: checked inputs, a scratch directory for its output, its day."""

    inputs: Mapping[str, Artifact[Any]]
    output: Path
    logical_date: date
    run_id: str
    state: Path
    """Where the step may keep what must survive its death (checkpoints): there until its output is
    in place."""
    aftermath: Path
    """Where a step that fails leaves what shows people why: always beside the output."""
    stamp: Mapping[str, Any]
    """The fields every manifest shares: pass them on as ``SomeManifest(**task.stamp, ...)``."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What a scheduler or a person may want to know of this run of the step, and no artifact
    depends on: small facts, kept in ``run.json`` outside the digest, and told in the result."""


def run_step(
    name: str,
    *,
    config: Path,
    logical_date: date,
    inputs: Mapping[str, Place],
    output: Place,
    surroundings: Surroundings | None = None,
) -> AnyManifest:
    """Run one step and return its sealed manifest.

    A step module in ``components.steps`` has ``run(task, *, <its sections>) -> Manifest``: it
    writes its payload into ``task.output`` and returns the unsealed manifest. For places in an
    object store it works on copies, and the output is sent there at the end.

    Raises:
        PerscenError: Any of the tree; ``output`` is then as it was before. In an object store it is
            then as before or, after a failed upload, does not exist.
    """
    step = PIPELINE[name]
    settings = read_config(config)
    if missing := sorted(set(step.inputs) - set(inputs)):
        raise ConfigError(
            f"{name} needs --in {', '.join(missing)}",
            hint=f"see `python -m components {name} --help`",
        )
    around = surroundings or Surroundings()
    if around.result is not None:
        with suppress(OSError):  # said when it is written
            around.result.unlink()  # an earlier attempt's
    started = time.monotonic()
    places = {**{key: inputs[key] for key in step.inputs}, step.output: output}
    with at_hand(places, scratch=around.scratch) as here:
        for key in filter(lambda key: is_address(places[key]), step.inputs):
            _fetch(key, str(places[key]), here[key], day=logical_date, settings=settings)
        artifacts = {key: _open(key, here[key]) for key in step.inputs}
        module = importlib.import_module(f"components.steps.{name}")
        local = here[step.output]
        aftermath = local.with_name(local.name + _STATE)
        state = around.state / str(logical_date) / aftermath.name if around.state else aftermath
        with _kept(step, local, output, around=around, state=state) as scratch:
            task = Task(
                inputs=artifacts,
                output=scratch,
                logical_date=logical_date,
                run_id=around.run_id,
                state=state,
                aftermath=aftermath,
                stamp=_stamp(step, settings, logical_date, artifacts),
            )
            sections = {section: getattr(settings, section) for section in step.sections}
            manifest: AnyManifest = write_manifest(scratch, module.run(task, **sections))
            if step.versioned and around.dvc_remote and not around.rank:
                # Before the output takes its place: where there are splits, they are committed.
                task.notes["dvc"] = _commit(task, remote=around.dvc_remote)
            run = {"run_id": around.run_id, "duration_s": round(time.monotonic() - started, 3)}
            _write_run_record(scratch, {**run, **task.notes})
    if around.result is not None and not around.rank:
        made = {"step": name, "artifact": step.output, "place": str(output)}
        about = {"digest": manifest.digest, "logical_date": logical_date.isoformat()}
        _tell(around.result, {**made, **about, **run, **task.notes})
    return manifest


def _fetch(name: str, address: str, to: Path, *, day: date, settings: Config) -> None:
    if name == "raw_log":
        fetch_raw_log(address, to, logical_date=day, window_days=settings.data.window_days)
    else:
        fetch_artifact(address, to)


def _open(name: str, path: Path) -> Artifact[Any]:
    # An artifact's name in the graph is its kind; raw logs alone are not made by a step.
    return open_raw_log(path) if name == "raw_log" else open_artifact(path, kind=name)


@contextmanager
def _kept(
    step: Step, local: Path, place: Place, *, around: Surroundings, state: Path
) -> Iterator[Path]:
    """Give the scratch directory of an output that takes its place, here or in a store, whole."""
    if around.rank:
        # Processes that share a step all make the same; what the first one makes is kept.
        with working_directory(around.scratch) as scratch:
            yield scratch
        return
    resumes = step.resumable and around.state is None
    desk = _desk(str(place), state, around) if is_address(place) else local
    with alone(desk, what=place, run_id=around.run_id):
        with ExitStack() as stack:
            if is_address(place):
                address = str(place)
                stack.enter_context(sent(local, address, aftermath=_STATE, resumes=resumes))
            yield stack.enter_context(staged(local))
        # Not before the output is in place: else a failing store would cost the whole training.
        shutil.rmtree(state, ignore_errors=True)


def _desk(address: str, state: Path, around: Surroundings) -> Path:
    """Return where attempts with one output in an object store meet, as a store has no locks.

    That is where checkpoints outlive pods, or else this machine.
    """
    if around.state is not None:
        return state.with_suffix("")
    digest = hashlib.sha256(address.encode()).hexdigest()
    return (around.scratch or Path(tempfile.gettempdir())) / f"perscen-{os.getuid()}-{digest[:16]}"


def _commit(task: Task, *, remote: str) -> str:
    from components.adapters import versioning  # DVC: only where something is versioned

    return versioning.commit(task.output, logical_date=task.logical_date, remote=remote)


def _stamp(
    step: Step, settings: Config, logical_date: date, artifacts: Mapping[str, Artifact[Any]]
) -> dict[str, Any]:
    sections = {
        section: getattr(settings, section).model_dump(mode="json") for section in step.sections
    }
    return {
        "step": step.name,
        "logical_date": logical_date,
        "code_version": code_version(step),
        "config_digest": json_digest(sections),
        "settings": sections,
        "parents": {
            name: a.manifest.digest
            for name, a in artifacts.items()
            if hasattr(a.manifest, "digest")
        },
    }


def code_version(step: Step) -> str:
    """Return a hash of the files the step is made of."""
    sha = hashlib.sha256()
    for watched in sorted(step.watched):
        root = _ROOT / watched
        for path in sorted(root.rglob("*") if root.is_dir() else [root]):
            if path.is_file() and "__pycache__" not in path.parts:
                sha.update(f"{path.relative_to(_ROOT).as_posix()}\0".encode() + path.read_bytes())
    return sha.hexdigest()


def _write_run_record(directory: Path, told: Mapping[str, Any]) -> None:
    record = {"created_at": datetime.now(UTC).isoformat(timespec="seconds"), **told}
    (directory / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _tell(path: Path, result: Mapping[str, Any]) -> None:
    """Write the result where the scheduler looks for it, whole or not at all.

    Raises:
        ConfigError: It cannot be written there.
    """
    scratch = path.with_name(f".{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(json.dumps(result) + "\n", encoding="utf-8")
        scratch.replace(path)
    except OSError as exc:
        raise ConfigError(
            f"the result cannot be written to {path}: {exc.strerror}",
            hint="set PERSCEN_RESULT to a file in a directory that can be written",
        ) from exc
