"""What a process is told by its environment: places, and who it is; never a setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4


@dataclass(frozen=True)
class Surroundings:
    """Where and as whom a step runs; whatever it makes does not depend on any of it."""

    run_id: str = field(default_factory=lambda: uuid4().hex)
    """Joins the log lines of the steps of one run (``PERSCEN_RUN_ID``)."""
    result: Path | None = None
    """File that is told what became of the step (``PERSCEN_RESULT``)."""
    state: Path | None = None
    """Directory that outlives a pod, for checkpoints; else they lie beside the output
    (``PERSCEN_STATE``)."""
    scratch: Path | None = None
    """Where what lies in an object store is fetched to; else the system's temporary directory
    (``PERSCEN_SCRATCH``)."""
    dvc_remote: str | None = None
    """Folder or address that versioned artifacts are committed to (``PERSCEN_DVC_REMOTE``)."""
    processes: int = 1
    """How many share the step's work (torchrun's ``WORLD_SIZE``)."""
    rank: int = 0
    """Number among them (torchrun's ``RANK``); the first one alone keeps what it makes."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Surroundings:
        """Return what the environment says; an empty variable says nothing."""
        given = {name: value for name, value in environment.items() if value}

        def path(name: str) -> Path | None:
            return Path(given[name]) if name in given else None

        # Other launchers set a RANK too, for processes that do not share a training.
        shared = "TORCHELASTIC_RUN_ID" in given

        return cls(
            run_id=given.get("PERSCEN_RUN_ID") or uuid4().hex,
            result=path("PERSCEN_RESULT"),
            state=path("PERSCEN_STATE"),
            scratch=path("PERSCEN_SCRATCH"),
            dvc_remote=given.get("PERSCEN_DVC_REMOTE"),
            processes=int(given["WORLD_SIZE"]) if shared else 1,
            rank=int(given["RANK"]) if shared else 0,
        )
