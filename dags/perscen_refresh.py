"""After a release: fetch it, warm its indexes, swap it in, and ask what is served its probes."""

from __future__ import annotations

from typing import Final

from airflow.sdk import DAG

from components.pipeline import Step
from dags._deployment import Deployment, read_deployment
from dags._tasks import RELEASE, task_of

_REFRESH: Final = Step(
    name="refresh",
    summary="verify the champion, warm its indexes and swap it in for what is served",
    inputs=(),
    output="serving",
    sections=("publish",),
    code=(),
)
_SMOKE_TEST: Final = Step(
    name="smoke-test",
    summary="ask what is being served the probes that travel with it",
    inputs=(),
    output="serving",
    sections=("publish",),
    code=(),
)
_DOC: Final = """\
Starts when a release is published, and not when one was refused. A release that does not give the
answers recorded in it is not swapped in: what was served stays. See
`docs/how-to/run-on-airflow.md`.
"""


def build(deployment: Deployment) -> DAG:
    """Return the consumer of releases as a DAG of one deployment."""
    argv = ["python", "-m", "components", "refresh", "--config", deployment.config]
    argv += ["--to", deployment.serving_root]
    with DAG(
        dag_id="perscen_refresh",
        description="Serve the release that was just published.",
        doc_md=_DOC,
        schedule=[RELEASE],
        catchup=False,
        max_active_runs=1,
        # A run that an asset started is about no day; pods are named after the release instead.
        user_defined_macros={"ds": "release"},
        tags=["perscen"],
    ) as dag:
        refresh = task_of(_REFRESH, argv=argv, deployment=deployment)
        smoke_test = task_of(_SMOKE_TEST, argv=[*argv, "--check"], deployment=deployment)
        smoke_test.set_upstream(refresh)
    return dag


dag = build(read_deployment())
