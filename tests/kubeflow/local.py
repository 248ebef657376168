"""Running the compiled pipeline on this machine, by Kubeflow's own local runner."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

RUN: Final = """\
import json, sys
from pathlib import Path
from kfp import components, local

here, arguments = Path(sys.argv[1]), json.loads(sys.argv[2])
local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(here / "kubeflow"))
done = components.load_component_from_file(str(here / "perscen.yaml"))(**arguments)
(here / "outputs.json").write_text(json.dumps(done.outputs))
"""


@dataclass(frozen=True)
class Ran:
    """A run that has ended."""

    code: int
    said: str
    outputs: dict[str, Any]
    """Of the whole pipeline; nothing when it failed."""
    tasks: Path
    """One directory for each task that was started."""

    def metadata(self, step: str, artifact: str) -> dict[str, Any]:
        """What Kubeflow knows of an artifact."""
        told = json.loads((self.tasks / step / "executor_output.json").read_text())
        metadata: dict[str, Any] = told["artifacts"][artifact]["artifacts"][0]["metadata"]
        return metadata


def run(
    here: Path, arguments: Mapping[str, Any], *, cwd: Path, environment: Mapping[str, str]
) -> Ran:
    """Run ``here/perscen.yaml`` from the directory that holds the ``components`` to run."""
    argv = [sys.executable, "-c", RUN, str(here), json.dumps(dict(arguments))]
    before = set((here / "kubeflow").glob("*"))
    (here / "outputs.json").unlink(missing_ok=True)
    ended = subprocess.run(argv, cwd=cwd, env=dict(environment), capture_output=True, text=True)
    done = here / "outputs.json"
    (tasks,) = set((here / "kubeflow").glob("*")) - before
    return Ran(
        code=ended.returncode,
        said=ended.stdout + ended.stderr,
        outputs=json.loads(done.read_text()) if done.exists() else {},
        tasks=tasks,
    )
