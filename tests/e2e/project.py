"""A fresh checkout of this project in another folder, driven as a user would: by its commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Project:
    """A checkout in ``path``."""

    path: Path

    def run(self, *argv: str, ok: bool = True, timeout: float = 600) -> subprocess.CompletedProcess:
        """Run a command of the project's environment in the checkout; check that it succeeds."""
        result = subprocess.run(
            argv,
            cwd=self.path,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if ok:
            assert result.returncode == 0, f"{' '.join(argv)}\n{result.stdout}\n{result.stderr}"
        return result

    def environment(self) -> dict[str, str]:
        """The environment of a user who has activated ``.venv`` here."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PYTEST_"))}
        return {
            **kept,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.path),
            "DVC_NO_ANALYTICS": "1",
            "XDG_CACHE_HOME": f"{self.path}.cache",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_AUTHOR_NAME": "t",
            "GIT_AUTHOR_EMAIL": "t@example.com",
            "GIT_COMMITTER_NAME": "t",
            "GIT_COMMITTER_EMAIL": "t@example.com",
            "COLUMNS": "160",
        }

    def make_small_log(self) -> None:
        """Write a synthetic log of fewer users than `perscen data synthetic` does."""
        code = (
            "from pathlib import Path\n"
            "from perscen.data.synthetic import import_synthetic\n"
            "import_synthetic(Path('data/raw'), num_users=800, num_items=300)"
        )
        self.run("python", "-c", code)

    def set(self, **sections: dict[str, Any]) -> None:
        """Change settings in ``params.yaml``, one level deep."""
        path = self.path / "params.yaml"
        tree = yaml.safe_load(path.read_text())
        for section, values in sections.items():
            tree[section].update(values)
        path.write_text(yaml.safe_dump(tree, sort_keys=False))

    def lock(self) -> dict[str, dict[str, str]]:
        """The hash of every output in ``dvc.lock``, by stage."""
        stages = yaml.safe_load((self.path / "dvc.lock").read_text())["stages"]
        return {name: {o["path"]: o["md5"] for o in s["outs"]} for name, s in stages.items()}

    def aliases(self) -> dict[str, int]:
        """The version of each alias of the registered model, as the registry has them."""
        code = (
            "import json, mlflow\n"
            "model = mlflow.MlflowClient().get_registered_model('perscen')\n"
            "print(json.dumps(model.aliases))"
        )
        aliases: dict[str, int] = json.loads(self.run("python", "-c", code).stdout)
        return aliases

    def json(self, name: str) -> Any:
        """A JSON file of the artifacts."""
        return json.loads((self.path / "artifacts" / name).read_text())


def checkout(path: Path) -> Project:
    """Copy what git tracks (as it is in the working tree) into a new repository."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, path / name)
    project = Project(path)
    project.run("git", "init", "-q")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "A checkout")
    return project
