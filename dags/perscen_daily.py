"""The daily run: one task per step, once the day's logs have landed."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Final

from airflow.sdk import DAG, CronDataIntervalTimetable

from components.pipeline import PIPELINE
from components.render import places
from dags._deployment import Deployment, read_deployment
from dags._landing import LandedSensor
from dags._tasks import OUTLETS, callbacks, task_of

_DAY: Final = "{{ ds }}"
_DOC: Final = """\
Retrains on one day of logs more and releases the model if every gate passes.

The logical date is the **day of logs**: it starts at its midnight, UTC, and its run starts when the
next day begins. A day without its logs waits; a day that breaks the contract fails at `validate`; a
model that is worse is refused, and `publish` shows as *skipped*: the champion then stays.

A past day: `airflow backfill create --dag-id perscen_daily --from-date D --to-date D`. See
`docs/how-to/run-on-airflow.md`.
"""


def build(deployment: Deployment) -> DAG:
    """Return the pipeline as a DAG of one deployment."""
    with DAG(
        dag_id="perscen_daily",
        description="Retrain on a day of logs, and release what passes the gates.",
        doc_md=_DOC,
        schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
        start_date=datetime.combine(deployment.start_date, time(), tzinfo=UTC),
        catchup=deployment.catchup,
        max_active_runs=1,  # a day is compared with the release of the day before
        tags=["perscen"],
    ) as dag:
        landed = LandedSensor(
            task_id="landed",
            doc_md="Wait for the day's logs.",
            raw_log=deployment.absolute(deployment.raw_log),
            timeout=deployment.wait_timeout_s,
            poke_interval=deployment.wait_interval_s,
            retries=deployment.retries,
            retry_delay=timedelta(seconds=deployment.retry_delay_s),
            **callbacks(deployment),
        )
        where = places(root=f"{deployment.run_root}/{_DAY}", raw_log=deployment.raw_log)
        tasks = {
            step.name: task_of(
                step,
                argv=step.argv(config=deployment.config, logical_date=_DAY, places=where),
                deployment=deployment,
                outlets=[OUTLETS[step.name]] if step.name in OUTLETS else [],
            )
            for step in PIPELINE.steps
        }
        for name, upstream in PIPELINE.edges.items():
            tasks[name].set_upstream([tasks[parent] for parent in sorted(upstream)] or landed)
    return dag


dag = build(read_deployment())
