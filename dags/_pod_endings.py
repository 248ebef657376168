"""How a pod ended, read from its status: the part of the failure policy that is Kubernetes'.

What an exit code means is `components.fates`' to say; here the cluster's own ways of ending a pod
come on top. Nothing is asked and nothing is changed, so the operator, which waits in a worker, and
its trigger, which waits for many, judge alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from components.fates import Fate, fate

_NO_IMAGE: Final = frozenset(
    {
        "ErrImagePull",
        "ErrImageNeverPull",
        "ImagePullBackOff",
        "ImageInspectError",
        "InvalidImageName",
        "RegistryUnavailable",
        "CreateContainerConfigError",
        "CreateContainerError",
    }
)
"""Why a container waits that will not start soon: the registry, or a Secret it reads, is missing.
Someone may mend either in the meantime, hence a bounded number of tries."""
_LOST: Final = "NodeLost"
OVERDUE: Final = timedelta(seconds=60)
"""How much longer than its grace a deleted pod may take; then its node does not answer."""


@dataclass(frozen=True)
class Ending:
    """What becomes of the task, and why, in a person's words."""

    fate: Fate
    why: str
    last_line: str = ""
    """What the step wrote last, as its container reports it."""


def ending(pod: Any, *, container: str, now: datetime, startup_timeout_s: float) -> Ending | None:
    """Return how the pod ended, or None while there is something to wait for.

    Args:
        pod: As either Kubernetes client reads it; None when the API does not know it any more.
        container: The container that runs the step; side-cars do not count.
        now: The time, in UTC.
        startup_timeout_s: How long the container may take to start, from the pod's creation on.
    """
    if pod is None:
        return Ending(Fate.RETRY, "the pod is gone: deleted, or its node was lost")
    if is_lost(pod, now=now):
        return Ending(Fate.RETRY, "the pod's node does not answer any more")
    state = container_state(pod, container)
    if state is not None and state.terminated is not None:
        return _of_container(pod, state.terminated)
    if pod.status.phase == "Succeeded":
        return Ending(Fate.DONE, "the pod succeeded")
    if pod.status.phase == "Failed":
        reason = pod.status.reason or "no reason given"
        return Ending(Fate.RETRY, f"the cluster ended the pod: {reason}{_told(pod.status)}")
    if state is not None and state.running is not None:
        return None
    return _of_start(pod, state, now=now, startup_timeout_s=startup_timeout_s)


def container_state(pod: Any, container: str) -> Any | None:
    """Return the state of one container; None before the node has heard of the pod."""
    statuses = pod.status.container_statuses or []
    return next((status.state for status in statuses if status.name == container), None)


def is_lost(pod: Any, *, now: datetime) -> bool:
    """Say whether nobody answers for the pod: it may run on where no one can reach it."""
    leaves_at = pod.metadata.deletion_timestamp
    overdue = leaves_at is not None and now > leaves_at + OVERDUE
    return overdue or pod.status.phase == "Unknown" or pod.status.reason == _LOST


def _of_container(pod: Any, end: Any) -> Ending:
    code = end.exit_code
    if code == 0:
        return Ending(Fate.DONE, "exit code 0")
    why = f"exit code {code}"
    if end.reason not in (None, "Error", "Completed"):
        why += f" ({end.reason})"
    if disruption := _disruption(pod):
        # Whatever the process said last: it was told to go, and another try is not.
        return Ending(Fate.RETRY, f"{why}, because the cluster ended the pod: {disruption}")
    decided = Fate.RETRY if end.reason == "OOMKilled" else fate(code)
    lines = (end.message or "").strip().splitlines()
    return Ending(decided, why, lines[-1] if lines else "")


def _of_start(
    pod: Any, state: Any | None, *, now: datetime, startup_timeout_s: float
) -> Ending | None:
    waiting = state.waiting if state is not None else None
    if waiting is not None and waiting.reason in _NO_IMAGE:
        return Ending(Fate.RETRY, f"the pod cannot start: {waiting.reason}{_told(waiting)}")
    if (now - pod.metadata.creation_timestamp).total_seconds() <= startup_timeout_s:
        return None
    conditions = [c for c in pod.status.conditions or [] if c.type == "PodScheduled"]
    stuck = next((_told(c) for c in conditions if c.status == "False"), "")
    return Ending(Fate.RETRY, f"the pod did not start within {startup_timeout_s:g} s{stuck}")


def _disruption(pod: Any) -> str | None:
    """Return why the cluster put the pod down, if it did."""
    if pod.status.reason in ("Evicted", "Preempting", "Terminated", "NodeShutdown"):
        return f"{pod.status.reason}{_told(pod.status)}"
    conditions = pod.status.conditions or []
    targets = (c for c in conditions if c.type == "DisruptionTarget" and c.status == "True")
    return next((f"{c.reason}{_told(c)}" for c in targets), None)


def _told(said: Any) -> str:
    return f": {said.message}" if said.message else ""
