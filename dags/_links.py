"""Links from a task's page to what the step made: the report, the Data Docs, the MLflow run.

Airflow keeps a link's text by its key as the task ends, so that pages need none of this code and no
plugin has to be registered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink

from dags._deployment import Deployment

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator


class ResultLink(BaseOperatorLink):
    """An address filled in with the run's day and the step's Result.

    Args:
        name: What the button says.
        address: The address, with ``{ds}`` and keys of the Result in braces.
        otherwise: The address when the step left no Result.
    """

    def __init__(self, name: str, address: str, *, otherwise: str = "") -> None:
        self._name = name
        self.address = address
        self.otherwise = otherwise

    @property
    def name(self) -> str:
        """What the button says."""
        return self._name

    @property
    def xcom_key(self) -> str:
        """Where Airflow keeps the link of a task."""
        return f"_link_{self._name.lower().replace(' ', '_')}"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:  # noqa: ARG002
        """Return the address; empty when the step left nothing to link to.

        Args:
            operator: Unused.
            ti_key: The running task, as Airflow calls it when the task ends.
        """
        day = ti_key.get_template_context().get("ds", "")
        result = ti_key.xcom_pull(task_ids=ti_key.task_id)
        if not isinstance(result, dict):
            return self.otherwise.format(ds=day)
        try:
            return self.address.format(ds=day, **result)
        except KeyError:  # a fact this run of the step did not note
            return ""


def links(step: str, deployment: Deployment) -> tuple[ResultLink, ...]:
    """Return the links on the page of a step's task, as far as the deployment knows addresses."""
    runs, mlflow = _address(deployment.runs_url), _address(deployment.mlflow_url)
    if step == "validate" and runs:
        docs = "data_docs/index.html"
        return (
            ResultLink(
                "Data Docs",
                f"{runs}/{{ds}}/clean_log/{docs}",
                otherwise=f"{runs}/{{ds}}/clean_log.state/{docs}",  # what a breach leaves
            ),
        )
    if step == "train" and mlflow:
        run = "#/experiments/{mlflow_experiment_id}/runs/{mlflow_run_id}"
        return (ResultLink("MLflow run", f"{mlflow}/{run}"),)
    if step == "report" and runs:
        return (ResultLink("Report", f"{runs}/{{ds}}/report/{{page}}"),)
    return ()


def report_address(day: str, deployment: Deployment) -> str | None:
    """Return where a day's report can be read, or None when the deployment does not say."""
    runs = _address(deployment.runs_url)
    return f"{runs}/{day}/report/index.html" if runs and day else None


def _address(url: str | None) -> str | None:
    return url.rstrip("/") if url else None
