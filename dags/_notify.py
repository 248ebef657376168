"""Telling people that a day was refused or failed: a JSON message to a webhook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import requests
from airflow.sdk import BaseHook, BaseNotifier

from dags._deployment import Deployment
from dags._links import report_address

if TYPE_CHECKING:
    from airflow.sdk import Connection, Context

Outcome = Literal["refused", "failed"]
_TIMEOUT_S: Final = 10
_SCHEMES: Final = frozenset({"http", "https"})


class VerdictWebhook(BaseNotifier):
    """Posts ``{dag, logical_date, task, outcome, text, report}`` to a connection's address.

    A webhook that does not answer is a warning in the task's log and changes no outcome. The
    connection's password, if any, goes as ``Authorization: Bearer``; its extra may hold another
    ``Authorization`` instead. Neither these nor the address are ever logged.

    Args:
        conn_id: The Airflow connection: either its host is the whole address, or it is put
            together from type (http, https), host, port and schema (the path).
        outcome: What the callback it is attached to means.
        deployment: Knows where reports can be read.
    """

    def __init__(self, conn_id: str, *, outcome: Outcome, deployment: Deployment) -> None:
        super().__init__()
        self.conn_id = conn_id
        self.outcome = outcome
        self.deployment = deployment

    def notify(self, context: Context) -> None:
        """Post the message of a task that ended."""
        try:
            connection = BaseHook.get_connection(self.conn_id)
            answer = requests.post(
                _address(connection),
                json=self.message(context),
                headers=_headers(connection),
                timeout=_TIMEOUT_S,
            )
            answer.raise_for_status()
        except Exception as exc:  # noqa: BLE001 (whatever is wrong here, the day's outcome stands)
            # The error's own text may hold the address, which may be a secret.
            status = getattr(getattr(exc, "response", None), "status_code", None)
            self.log.warning(
                "the webhook was not told",
                connection=self.conn_id,
                error=type(exc).__name__,
                status=status,
            )

    def message(self, context: Context) -> dict[str, Any]:
        """Return what is posted; ``text`` alone is enough for a chat."""
        ti, day = context["ti"], context.get("ds", "")
        lines = [f"{ti.dag_id} {day}: {ti.task_id} {self.outcome}".replace(" :", ":")]
        report = None
        if self.outcome == "failed":
            lines += [str(context.get("exception") or "it gave no reason"), f"Log: {ti.log_url}"]
        else:
            report = report_address(day, self.deployment)
            table = _verdict_table(context)
            lines.append("The champion stays in place.")
            lines += [f"```\n{table}\n```"] if table else []
            lines += [f"Report: {report}"] if report else []
        return {
            "dag": ti.dag_id,
            "logical_date": day or None,
            "task": ti.task_id,
            "outcome": self.outcome,
            "text": "\n".join(lines),
            "report": report,
        }


def _verdict_table(context: Context) -> str:
    verdict = context["ti"].xcom_pull(task_ids="gate")
    return str(verdict.get("table", "")) if isinstance(verdict, dict) else ""


def _address(connection: Connection) -> str:
    host, path = connection.host or "", connection.schema or ""
    if "://" in host:
        return host
    scheme = connection.conn_type
    if path in _SCHEMES:  # as Airflow's own HTTP hook has it
        scheme, path = path, ""
    port = f":{connection.port}" if connection.port else ""
    return f"{scheme}://{host}{port}/{path.lstrip('/')}"


def _headers(connection: Connection) -> dict[str, str]:
    if given := connection.extra_dejson.get("Authorization"):
        return {"Authorization": str(given)}
    return {"Authorization": f"Bearer {connection.password}"} if connection.password else {}
