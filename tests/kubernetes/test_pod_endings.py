"""Every way a pod can end has one fate, whoever looks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from components.fates import Fate
from dags._pod_endings import Ending, ending

NOW = datetime(2022, 5, 6, 3, tzinfo=UTC)
TIMEOUT_S = 900


def pod(
    *,
    phase: str = "Running",
    reason: str | None = None,
    age_s: float = 60,
    deleted_s_ago: float | None = None,
    disrupted_by: str | None = None,
    **containers: Any,
) -> Any:
    """Return a pod as a client reads it; ``step=state`` and the like are its containers."""
    leaves_at = None if deleted_s_ago is None else NOW - timedelta(seconds=deleted_s_ago)
    conditions = [
        SimpleNamespace(type="DisruptionTarget", status="True", reason=disrupted_by, message=None)
    ]
    return SimpleNamespace(
        metadata=SimpleNamespace(
            creation_timestamp=NOW - timedelta(seconds=age_s), deletion_timestamp=leaves_at
        ),
        status=SimpleNamespace(
            phase=phase,
            reason=reason,
            message=None,
            conditions=conditions if disrupted_by else None,
            container_statuses=[
                SimpleNamespace(name=name.replace("_", "-"), state=state)
                for name, state in containers.items()
            ]
            or None,
        ),
    )


def state(**parts: Any) -> Any:
    return SimpleNamespace(**{"running": None, "waiting": None, "terminated": None, **parts})


def waits(reason: str) -> Any:
    return state(waiting=SimpleNamespace(reason=reason, message="as told by the node"))


def ended(code: int, reason: str = "Error", message: str | None = None) -> Any:
    return state(terminated=SimpleNamespace(exit_code=code, reason=reason, message=message))


RUNS = state(running=SimpleNamespace())


def judge(found: Any) -> Ending | None:
    return ending(found, container="step", now=NOW, startup_timeout_s=TIMEOUT_S)


@pytest.mark.parametrize(
    ("code", "fate"),
    [(0, Fate.DONE), (10, Fate.REFUSED), (75, Fate.RETRY), (137, Fate.RETRY), (143, Fate.RETRY)]
    + [(code, Fate.FAILED) for code in (1, 65, 66, 70, 74, 78, 130)],
)
def test_an_exit_code_means_what_the_one_policy_says(code: int, fate: Fate):
    # The side-car runs on until it is told, so the phase says nothing.
    judged = judge(pod(step=ended(code), airflow_xcom_sidecar=RUNS))

    assert judged is not None
    assert judged.fate is fate


@pytest.mark.parametrize(
    "found",
    [
        None,
        pod(phase="Failed", reason="Evicted"),
        pod(phase="Failed", reason="UnexpectedAdmissionError"),
        pod(phase="Unknown", step=RUNS),
        pod(reason="NodeLost", step=RUNS),
        pod(deleted_s_ago=61, step=RUNS),
        pod(step=ended(1, "OOMKilled")),
        pod(step=ended(137, "ContainerStatusUnknown")),
        pod(disrupted_by="PreemptionByScheduler", step=ended(1)),
        pod(phase="Failed", reason="Evicted", step=ended(1)),
        pod(phase="Pending", step=waits("ErrImagePull")),
        pod(step=waits("ImagePullBackOff"), airflow_xcom_sidecar=RUNS),
        pod(phase="Pending", step=waits("CreateContainerConfigError")),
        pod(phase="Pending", age_s=TIMEOUT_S + 1),
        pod(age_s=TIMEOUT_S + 1, step=waits("ContainerCreating"), airflow_xcom_sidecar=RUNS),
    ],
)
def test_what_the_cluster_did_is_tried_again(found: Any):
    judged = judge(found)

    assert judged is not None
    assert judged.fate is Fate.RETRY


@pytest.mark.parametrize(
    "found",
    [
        pod(step=RUNS),
        pod(step=RUNS, age_s=100 * TIMEOUT_S),
        pod(phase="Pending"),
        pod(phase="Pending", step=waits("ContainerCreating"), age_s=TIMEOUT_S),
        pod(deleted_s_ago=59, step=RUNS),
        pod(deleted_s_ago=-300, step=RUNS),
        pod(disrupted_by="EvictionByEvictionAPI", step=RUNS),
    ],
)
def test_what_may_still_end_well_is_waited_for(found: Any):
    assert judge(found) is None


def test_a_pod_that_was_put_down_after_it_was_done_is_done():
    judged = judge(pod(disrupted_by="DeletionByTaintManager", step=ended(0, "Completed")))

    assert judged is not None
    assert judged.fate is Fate.DONE


def test_a_person_is_told_the_code_and_the_steps_own_last_words():
    judged = judge(pod(step=ended(65, message="started\n31% of rows break the contract\n")))

    assert judged == Ending(Fate.FAILED, "exit code 65", "31% of rows break the contract")
