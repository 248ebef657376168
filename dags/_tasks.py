"""A step as an Airflow task, wherever the deployment runs it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk import Asset, BaseOperator

from components.pipeline import Step
from dags._deployment import Deployment
from dags._links import links

if TYPE_CHECKING:
    from airflow.sdk import Context

SPLITS: Final = Asset(name="perscen_splits", uri="perscen://splits", group="perscen")
RELEASE: Final = Asset(name="perscen_release", uri="perscen://release", group="perscen")
"""The bundle that became champion. A refused ``publish`` is skipped and tells nobody."""

OUTLETS: Final[dict[str, Asset]] = {"split": SPLITS, "publish": RELEASE}
_MAX_RETRY_DELAY: Final = timedelta(hours=1)


def task_of(
    step: Step,
    *,
    argv: list[str],
    deployment: Deployment,
    outlets: Sequence[Asset] = (),
) -> BaseOperator:
    """Return the task that runs a step's argv as a process or as a pod.

    What an exit code means is the same for both: ``components.fates``.
    """
    arguments: dict[str, Any] = {
        "task_id": step.name,
        "doc_md": f"{step.summary.capitalize()}.",
        "outlets": list(outlets),
        "retries": deployment.retries,
        "retry_delay": timedelta(seconds=deployment.retry_delay_s),
        "retry_exponential_backoff": 2,
        "max_retry_delay": _MAX_RETRY_DELAY,
        "post_execute": _tell_consumers,
        **callbacks(deployment, refusable=step.name == "publish"),
    }
    task = _operator(step, argv=argv, deployment=deployment, **arguments)
    task.operator_extra_links = (*task.operator_extra_links, *links(step.name, deployment))
    return task


def callbacks(deployment: Deployment, *, refusable: bool = False) -> dict[str, Any]:
    """Return what tells the deployment's webhook, if it has one, how a task ended.

    Args:
        deployment: Names the webhook's connection.
        refusable: Whether the task shows a refused release by being skipped.
    """
    if deployment.webhook_conn_id is None:
        return {}
    from dags._notify import VerdictWebhook

    def webhook(outcome: Any) -> VerdictWebhook:
        return VerdictWebhook(deployment.webhook_conn_id, outcome=outcome, deployment=deployment)

    told: dict[str, Any] = {"on_failure_callback": webhook("failed")}
    if refusable:
        told["on_skipped_callback"] = webhook("refused")
    return told


def _operator(
    step: Step, *, argv: list[str], deployment: Deployment, **arguments: Any
) -> BaseOperator:
    # Only the chosen way is imported: parsing a DAG file must stay cheap.
    if deployment.runs_in == "kubernetes":
        from dags._pods import pod_operator

        return pod_operator(step, argv=argv, deployment=deployment, **arguments)
    from dags._process import StepOperator

    return StepOperator(
        argv=argv,
        home=deployment.home,
        environment=deployment.environment,
        termination_grace_s=deployment.pods.termination_grace_s,
        **arguments,
    )


def _tell_consumers(context: Context, result: Any = None) -> None:
    """Put the step's small facts on the assets it made, for DAGs that start with them."""
    if isinstance(result, dict):
        for asset in context["task"].outlets:
            context["outlet_events"][asset].extra = result
