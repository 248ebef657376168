"""Pod tasks, run by a real Airflow against a fake cluster, end as the failure policy says."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.pipeline import PIPELINE
from tests.kubernetes.conftest import Worker
from tests.kubernetes.fake_api import Cluster, Life, Running
from tests.kubernetes.pods import Pod
from tests.splits.clean_logs import day, some_rows, write_clean_log

pytestmark = pytest.mark.medium

GRACE_S = 77
RESULT = '{"step": "train", "best_epoch": 3}'


async def succeeds(pod: Pod) -> None:
    await pod.start()
    pod.log("epoch finished")
    pod.result = RESULT
    pod.end(code=0)


async def is_evicted(pod: Pod) -> None:
    await pod.start()
    pod.evict()


async def lacks_its_image(pod: Pod) -> None:
    pod.cannot_start("ErrImagePull", "manifest unknown")


async def stays_pending(pod: Pod) -> None:
    """No node fits."""


async def runs_out_of_memory(pod: Pod) -> None:
    await pod.start()
    pod.end(code=137, reason="OOMKilled")


async def is_preempted(pod: Pod) -> None:
    await pod.start()
    pod.disrupt("PreemptionByScheduler")
    pod.end(code=1)


async def loses_its_node(pod: Pod) -> None:
    await pod.start()
    pod.node_answers = False
    await asyncio.sleep(0.2)
    pod.status |= {"phase": "Unknown", "reason": "NodeLost"}


async def vanishes(pod: Pod) -> None:
    await pod.start()
    await asyncio.sleep(0.2)
    pod.node_answers = False
    pod.cluster.remove(pod)


async def outlives_an_api_restart(pod: Pod) -> None:
    await pod.start()
    pod.log("first")
    await asyncio.sleep(0.3)
    await pod.cluster.restart(refuse_s=1, broken_s=1)
    pod.log("second")
    await asyncio.sleep(0.2)
    pod.result = RESULT
    pod.end(code=0)


async def checkpoints_when_told(pod: Pod) -> None:
    await pod.start()
    await pod.told_to_stop.wait()
    await asyncio.sleep(0.5)
    pod.end(code=75)


def exits(code: int) -> Life:
    async def life(pod: Pod) -> None:
        await pod.start()
        pod.log(json.dumps({"level": "error", "event": "this is why", "hint": "do that"}))
        pod.end(code=code)

    return life


def question(case: pytest.FixtureRequest, *, deferrable: bool, **changes: Any) -> dict[str, Any]:
    """Return what the worker is asked: the step, as a deployment that has two tries runs it."""
    pods = {
        "cluster": "kubeconfig",
        "deferrable": deferrable,
        "startup_timeout_s": 5,
        "termination_grace_s": GRACE_S,
        "api_patience_s": 20,
    }
    return {
        "dag": "".join(c if c.isalnum() else "_" for c in case.node.name),
        "step": "train",
        "argv": ["python", "-c", "pass"],
        "deployment": {"retries": 1, "pods": pods | changes},
    }


@pytest.fixture(params=[False, True], ids=["in a worker", "deferred"])
def asked(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the worker is asked, for both ways of waiting."""
    return question(request, deferrable=request.param)


def test_a_result_becomes_the_tasks_and_the_pod_goes(
    worker: Worker, kubernetes: Running, asked: dict[str, Any]
):
    kubernetes.cluster.lives = [succeeds]

    told = worker.ask("run", **asked)

    assert told == {"state": "success", "tries": 1, "result": {"step": "train", "best_epoch": 3}}
    assert len(kubernetes.cluster.created) == 1
    assert kubernetes.cluster.pods == {}
    assert worker.said.count("epoch finished") == 1


def test_a_pod_runs_a_steps_own_argv_and_makes_its_artifact(
    worker: Worker, kubernetes: Running, tmp_path: Path
):
    async def runs_the_argv(pod: Pod) -> None:
        await pod.start()
        await pod.run_process()

    kubernetes.cluster.lives = [runs_the_argv]
    windows = {"train_days": 4, "valid_days": 1, "test_days": 1, "num_scenarios": 2}
    settings = {"run": {"logical_date": day(5)}, "split": windows, "model": {"family": "perscen"}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    write_clean_log(tmp_path / "clean_log", some_rows())
    argv = PIPELINE["split"].argv(
        config=f"{tmp_path}/params.yaml",
        logical_date=day(5).isoformat(),
        places={"clean_log": f"{tmp_path}/clean_log", "splits": f"{tmp_path}/{{{{ ds }}}}/splits"},
    )
    pods = {"cluster": "kubeconfig", "volume_claim": "perscen", "volume_mount": str(tmp_path)}

    told = worker.ask(
        "run", dag="real", step="split", argv=argv, deployment={"retries": 0, "pods": pods}
    )

    assert told["state"] == "success", worker.said[-4000:]
    artifact = tmp_path / "2022-05-05" / "splits"
    manifest = json.loads((artifact / "manifest.json").read_text())
    run = json.loads((artifact / "run.json").read_text())
    assert told["result"]["digest"] == manifest["digest"]
    assert told["result"]["place"] == str(artifact)
    assert run["run_id"] == told["result"]["run_id"]
    assert run["run_id"].startswith("manual__"), "Airflow's run joins the log lines of its steps"


@pytest.mark.parametrize(
    "life",
    [
        is_evicted,
        lacks_its_image,
        stays_pending,
        runs_out_of_memory,
        is_preempted,
        loses_its_node,
        vanishes,
        exits(75),
    ],
    ids=lambda life: life.__name__,
)
def test_what_may_pass_is_tried_again_once_the_pod_is_gone(
    worker: Worker, kubernetes: Running, asked: dict[str, Any], life: Life
):
    kubernetes.cluster.lives = [life, succeeds]

    told = worker.ask("run", **asked)

    assert (told["state"], told["tries"]) == ("success", 2)
    assert len(kubernetes.cluster.created) == 2
    assert kubernetes.cluster.most_at_work == 1
    assert kubernetes.cluster.pods == {}


def test_tries_are_bounded(worker: Worker, kubernetes: Running, asked: dict[str, Any]):
    kubernetes.cluster.lives = [is_evicted]

    told = worker.ask("run", **asked)

    assert (told["state"], told["tries"]) == ("failed", 2)
    assert len(kubernetes.cluster.created) == 2


def test_a_refusal_is_skipped(worker: Worker, kubernetes: Running, asked: dict[str, Any]):
    kubernetes.cluster.lives = [exits(10)]

    told = worker.ask("run", **asked)

    assert (told["state"], told["tries"]) == ("skipped", 1)
    assert len(kubernetes.cluster.created) == 1
    assert kubernetes.cluster.pods == {}


def test_what_would_fail_again_is_not_tried_again_and_its_pod_is_kept(
    worker: Worker, kubernetes: Running, asked: dict[str, Any]
):
    kubernetes.cluster.lives = [exits(65)]

    told = worker.ask("run", **asked)

    assert (told["state"], told["tries"]) == ("failed", 1)
    (kept,) = kubernetes.cluster.pods.values()
    assert kept.status["phase"] == "Failed", "a side-car that runs on would hold the GPU"
    assert kept.labels["already_checked"] == "True"
    assert "exit code 65: this is why\nwhat to do: do that" in worker.said


def test_an_api_that_restarts_costs_no_try_and_no_line_of_the_log(
    worker: Worker, kubernetes: Running, asked: dict[str, Any]
):
    kubernetes.cluster.lives = [outlives_an_api_restart]

    told = worker.ask("run", **asked)

    assert (told["state"], told["tries"]) == ("success", 1)
    assert len(kubernetes.cluster.created) == 1
    assert "does not answer" in worker.said
    assert re.findall(r"\] (first|second) ", worker.said) == ["first", "second"]


def runs_until(may_end: asyncio.Event) -> Life:
    async def life(pod: Pod) -> None:
        await pod.start()
        await may_end.wait()
        pod.result = RESULT
        pod.end(code=0)

    return life


def test_a_pod_whose_worker_was_killed_is_gone_on_with(
    airflow_home: Path, worker: Worker, kubernetes: Running, request: pytest.FixtureRequest
):
    may_end = asyncio.Event()
    kubernetes.cluster.lives = [runs_until(may_end)]
    asked = question(request, deferrable=False)
    victim = Worker(airflow_home)
    victim.begin("run", **asked)
    kubernetes.wait(at_work, timeout=120)
    victim.stop()
    kubernetes.call(may_end.set)

    told = worker.ask("try_again", **asked)

    assert (told["state"], told["tries"]) == ("success", 2)
    assert told["result"]["best_epoch"] == 3
    assert len(kubernetes.cluster.created) == 1


def test_a_pod_whose_trigger_was_lost_is_gone_on_with(
    worker: Worker, kubernetes: Running, request: pytest.FixtureRequest
):
    may_end = asyncio.Event()
    kubernetes.cluster.lives = [runs_until(may_end)]
    asked = question(request, deferrable=True)
    worker.begin("run", **asked)
    worker.says("running trigger in line")  # before, the signal would end the task and not it
    reads = kubernetes.cluster.reads
    kubernetes.wait(lambda cluster: cluster.reads > reads)
    assert worker.interrupt()["state"] == "interrupted"
    kubernetes.call(may_end.set)

    told = worker.ask("try_again", **asked)

    assert (told["state"], told["tries"]) == ("success", 2)
    assert len(kubernetes.cluster.created) == 1


def test_a_pod_on_its_way_out_is_waited_for(
    worker: Worker, kubernetes: Running, request: pytest.FixtureRequest
):
    kubernetes.cluster.lives = [checkpoints_when_told, succeeds]
    asked = question(request, deferrable=False)
    worker.begin("run", **asked)
    (pod,) = kubernetes.wait(at_work)
    kubernetes.begin(pod.terminate(None))
    worker.signal(signal.SIGINT)

    told = worker.answer()

    assert (told["state"], told["tries"]) == ("success", 2)
    assert len(kubernetes.cluster.created) == 2
    assert kubernetes.cluster.most_at_work == 1


def test_a_task_that_is_stopped_gives_its_pod_the_time_to_checkpoint(
    worker: Worker, kubernetes: Running, request: pytest.FixtureRequest
):
    kubernetes.cluster.lives = [checkpoints_when_told, succeeds]
    worker.begin("run", **question(request, deferrable=False))
    kubernetes.wait(at_work)
    worker.signal(signal.SIGTERM)

    told = worker.answer()

    assert kubernetes.cluster.deletions[0][1] == GRACE_S
    assert (told["state"], told["tries"]) == ("success", 2)
    assert kubernetes.cluster.most_at_work == 1


def at_work(cluster: Cluster) -> list[Pod]:
    """Return the pods whose step runs."""
    return [pod for pod in cluster.pods.values() if pod.works()]
