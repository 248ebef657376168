"""A pod of the fake cluster: its manifest, and what its kubelet would do with it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tests.conftest import ROOT

if TYPE_CHECKING:
    from tests.kubernetes.fake_api import Cluster

STEP = "step"
SIDECAR = "airflow-xcom-sidecar"
_RESULTS = "/airflow/xcom"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class Pod:
    """One pod; a life moves it from phase to phase."""

    def __init__(self, manifest: dict[str, Any], *, cluster: Cluster) -> None:
        self.cluster = cluster
        self.manifest = manifest
        self.name: str = manifest["metadata"]["name"]
        self.labels: dict[str, str] = manifest["metadata"].setdefault("labels", {})
        manifest["metadata"] |= {"uid": str(uuid4()), "creationTimestamp": _now()}
        manifest["status"] = self.status = {"phase": "Pending"}
        self.log_lines: list[tuple[str, str]] = []
        self.result: str | None = None
        self.node_answers = True
        self.told_to_stop = asyncio.Event()

    # The life of its containers.

    async def start(self) -> None:
        """Schedule the pod, pull its images and start its containers."""
        scheduled = {"type": "PodScheduled", "status": "True"}
        self.status |= {"startTime": _now(), "conditions": [scheduled]}
        self._set(STEP, {"waiting": {"reason": "ContainerCreating"}})
        await asyncio.sleep(0.05)
        for name in (STEP, SIDECAR):
            self._set(name, {"running": {"startedAt": _now()}})
        self.status["phase"] = "Running"
        at_work = [p for p in self.cluster.pods.values() if p.works() and p.task == self.task]
        self.cluster.most_at_work = max(self.cluster.most_at_work, len(at_work))

    def log(self, line: str) -> None:
        """Write a line, stamped as a node stamps it: to the nanosecond, all equally long."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
        self.log_lines.append((f"{stamp}000Z", line))

    def end(self, container: str = STEP, *, code: int, reason: str | None = None) -> None:
        """End a container; the pod is over when its side-car is, too."""
        reason = reason or ("Completed" if code == 0 else "Error")
        lines = "\n".join(line for _, line in self.log_lines) if container == STEP and code else ""
        ended = {"exitCode": code, "reason": reason, "finishedAt": _now(), "message": lines}
        self._set(container, {"terminated": ended})

    def overstay(self) -> None:
        """End all that runs, because of the pod's deadline."""
        for name in (STEP, SIDECAR):
            if "terminated" not in (self.state(name) or {}):
                self.end(name, code=137)
        self.status |= {"phase": "Failed", "reason": "DeadlineExceeded"}

    def cannot_start(self, reason: str, message: str) -> None:
        """Leave the step's container waiting, while the side-car runs: the phase is Running."""
        self.status["phase"] = "Running"
        self._set(SIDECAR, {"running": {"startedAt": _now()}})
        self._set(STEP, {"waiting": {"reason": reason, "message": message}})

    def evict(self) -> None:
        """Fail the pod as a kubelet short of memory does: a reason, and no container status."""
        self.status.pop("containerStatuses", None)
        self.status |= {
            "phase": "Failed",
            "reason": "Evicted",
            "message": "The node was low on resource: memory.",
        }

    def disrupt(self, reason: str) -> None:
        """Say that the cluster is about to put the pod down."""
        self.status["conditions"].append(
            {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "drained"}
        )

    async def run_process(self) -> None:
        """Run the step's command as a process of this machine, to its end."""
        step = self.manifest["spec"]["containers"][0]
        with tempfile.TemporaryDirectory() as results:
            own = {e["name"]: e.get("value", "").replace(_RESULTS, results) for e in step["env"]}
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            process = await asyncio.create_subprocess_exec(
                *step["args"],
                cwd=ROOT,
                env={**os.environ, **own, "PATH": path},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            stopping = asyncio.ensure_future(self._pass_on(process))
            assert process.stdout is not None
            async for line in process.stdout:
                self.log(line.decode().rstrip("\n"))
            code = await process.wait()
            stopping.cancel()
            result = Path(results) / "return.json"
            self.result = result.read_text() if result.exists() else None
        self.end(code=code if code >= 0 else 128 - code)

    async def _pass_on(self, process: asyncio.subprocess.Process) -> None:
        await self.told_to_stop.wait()
        process.send_signal(signal.SIGTERM)

    async def terminate(self, grace_s: int | None) -> None:
        """Do what a deletion starts: tell the containers to stop, and go when they have."""
        spec: dict[str, Any] = self.manifest["spec"]
        grace_s = spec.get("terminationGracePeriodSeconds", 30) if grace_s is None else grace_s
        leaves_at = datetime.now(UTC) + timedelta(seconds=grace_s)
        metadata = self.manifest["metadata"]
        metadata["deletionTimestamp"] = leaves_at.isoformat().replace("+00:00", "Z")
        self.told_to_stop.set()
        while (
            self.works() and grace_s and not (self.node_answers and datetime.now(UTC) > leaves_at)
        ):
            await asyncio.sleep(0.02)
        self.cluster.remove(self)

    # What is known of it.

    @property
    def task(self) -> tuple[str, ...]:
        """The task and run it works for."""
        return tuple(self.labels[key] for key in ("dag_id", "task_id", "run_id"))

    def works(self) -> bool:
        """Say whether the step's container is running."""
        return "running" in (self.state(STEP) or {})

    def state(self, container: str) -> dict[str, Any] | None:
        """Return the state of a container."""
        statuses = self.status.get("containerStatuses", [])
        return next((s["state"] for s in statuses if s["name"] == container), None)

    def _set(self, container: str, state: dict[str, Any]) -> None:
        others = [s for s in self.status.get("containerStatuses", []) if s["name"] != container]
        told = {"name": container, "image": "perscen", "imageID": "", "restartCount": 0}
        told |= {"ready": "running" in state, "state": state}
        self.status["containerStatuses"] = [*others, told]
