"""What `infra/` holds, read the way its readers do."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT

BIN = Path(sys.executable).parent
INFRA = ROOT / "infra"
OVERLAYS = sorted(
    path.parent.name for path in INFRA.glob("kubernetes/overlays/*/kustomization.yaml")
)
Manifest = dict[str, Any]


def read_yaml(name: str) -> Any:
    """Return the one document of a file below `infra/`."""
    return yaml.safe_load((INFRA / name).read_text())


@cache
def pins() -> dict[str, str]:
    """The version of each package, from `constraints.txt`."""
    lines = (ROOT / "constraints.txt").read_text().split()
    return dict(line.lower().split("==") for line in lines)


@cache
def rendered(overlay: str) -> tuple[Manifest, ...]:
    """The manifests of an overlay, as `kubectl apply` would get them."""
    command = [BIN / "kubectl", "kustomize", "--load-restrictor", "LoadRestrictionsNone"]
    done = subprocess.run(
        [*command, INFRA / "kubernetes" / "overlays" / overlay], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def named(overlay: str, kind: str, name: str, *, namespace: str = "perscen") -> Manifest:
    """The one manifest of that kind and name."""
    found = [m for m in rendered(overlay) if m["kind"] == kind and m["metadata"]["name"] == name]
    found = [m for m in found if m["metadata"].get("namespace", namespace) == namespace]
    assert len(found) == 1, f"{len(found)} of {kind} {namespace}/{name} in {overlay}"
    return found[0]
