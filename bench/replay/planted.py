"""The two faults of a replay: a day of bad logs, and a model that lost one sparse scenario.

``python`` of a replay's steps is a script that calls :func:`main` after each step, so that the
scheduler, the DAG and the steps are exactly those of every other day.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from components.store import open_artifact, write_manifest
from perscen.data.raw_layout import SOURCE_NAME
from perscen.models.families import load_model
from perscen.models.fingerprint import space_fingerprint

_EVERY = 3
"""One row in three of the bad day has lost its user."""


def spoil_day(raw: Path, day: date) -> None:
    """Take the user id from a third of a day's rows, as an export with a broken join would."""
    manifest = json.loads((raw / SOURCE_NAME).read_text())
    for name in [name for name in manifest["files"] if name.startswith(f"date={day}/")]:
        path = raw / name
        with pq.ParquetFile(path) as file:
            table = file.read()
        at = table.schema.get_field_index("user_id")
        users = table.column(at).to_pylist()
        users[::_EVERY] = [None] * len(users[::_EVERY])
        column = pa.array(users, pa.string()).dictionary_encode()
        pq.write_table(table.set_column(at, "user_id", column), path, compression="zstd")
        manifest["files"][name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (raw / SOURCE_NAME).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def lose_scenario(directory: Path, scenario: str) -> None:
    """Turn the sign of one scenario's popularity prior in a finished model artifact.

    The artifact stays whole: its fingerprint and digest are those of the weights it now has, so
    that nothing but the gate can tell that this model must not ship.
    """
    manifest = open_artifact(directory, kind="model").manifest
    model = load_model(directory)
    vocabularies = json.loads((directory / "vocabularies.json").read_text())
    column = list(model.schema.scenarios).index(scenario)
    with torch.no_grad():
        model.score.prior.log_share_RSK[:, column] *= -1
    model.save(directory)
    fingerprint = space_fingerprint(model, vocabularies)
    write_manifest(directory, manifest.model_copy(update={"fingerprint": fingerprint}))


def main(argv: Sequence[str] | None = None) -> None:
    """Spoil the model that a step's command line has just made, if it is the planted day's."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--on", required=True, help="logical date")
    parser.add_argument("--scenario", required=True)
    parser.add_argument("argv", nargs=argparse.REMAINDER, help="the step's command line")
    a = parser.parse_args(argv)
    if a.argv[1:4] == ["-m", "components", "train"] and a.on in a.argv:
        lose_scenario(Path(a.argv[a.argv.index("--out") + 2]), a.scenario)


if __name__ == "__main__":
    main()
