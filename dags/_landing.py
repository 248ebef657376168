"""Waiting for a day's logs: the raw log has landed when its ``source.json`` names the partition."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NoReturn

import fsspec
from airflow.sdk import BaseSensorOperator, timezone
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSensorTimeout,
    TaskDeferralTimeout,
)
from airflow.triggers.base import BaseTrigger, TriggerEvent

if TYPE_CHECKING:
    from airflow.sdk import Context

_SOURCE: Final = "source.json"
_UNREAD: Final = "the raw log cannot be read; looking again"
_NO_DATE: Final = """\
this run has no logical date, so it is about no day of logs; trigger it with one: \
`airflow dags trigger perscen_daily --logical-date 2022-05-05`, or "Logical Date" on the page"""


def landed_days(raw_log: str) -> list[str]:
    """Return the days a raw log says it holds, ascending; none while it says nothing.

    Args:
        raw_log: A directory or an address that fsspec knows.

    Raises:
        OSError: The place cannot be read; says why.
    """
    try:
        with fsspec.open(f"{raw_log.rstrip('/')}/{_SOURCE}", "rb") as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError:
        raise
    except Exception as exc:  # each store has errors of its own, and botocore's are no OSError
        raise OSError(f"{type(exc).__name__}: {exc}") from exc
    try:
        folders = {name.partition("/")[0] for name in json.loads(text)["files"]}
    except (ValueError, KeyError, TypeError):  # being written by something that is not us
        return []
    return sorted(f.removeprefix("date=") for f in folders if f.startswith("date="))


class LandedTrigger(BaseTrigger):
    """Fires when a day has landed; how long that may take is the sensor's to say."""

    def __init__(self, raw_log: str, day: str, poke_interval_s: float) -> None:
        super().__init__()
        self.raw_log = raw_log
        self.day = day
        self.poke_interval_s = poke_interval_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what another process needs to go on waiting."""
        return (
            "dags._landing.LandedTrigger",
            {
                "raw_log": self.raw_log,
                "day": self.day,
                "poke_interval_s": self.poke_interval_s,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, again and again; a store that does not answer is asked again.

        The sensor has looked just before, so the first look is an interval later.
        """
        while True:
            await asyncio.sleep(self.poke_interval_s)
            try:
                # A thread: many triggers share one event loop, and fsspec blocks.
                days = await asyncio.to_thread(landed_days, self.raw_log)
            except OSError as exc:
                self.log.warning(_UNREAD, error=str(exc))
            else:
                if self.day in days:
                    yield TriggerEvent(self.day)
                    return


class LandedSensor(BaseSensorOperator):
    """Waits until the logs of the run's day have landed, holding no worker meanwhile.

    A backfill may start several runs at once, whatever the DAG says. The days still go one after
    the other, as each is compared with the release of the day before.

    Args:
        raw_log: A directory or an address that fsspec knows.
        deferrable: Wait in the triggerer; without one, the scheduler starts a look each
            ``poke_interval``.
        operator_arguments: As for any sensor; ``timeout`` is how long a day's logs may take. A wait
            that was too long is not tried again, whatever ``retries`` says. One that Airflow lost
            is: its scheduler fails a task that it starts again before it has heard of its last end,
            so a ``poke_interval`` must be longer than a worker takes to end.
    """

    ui_color = "#f4f0e3"

    def __init__(self, *, raw_log: str, deferrable: bool = True, **operator_arguments: Any) -> None:
        super().__init__(mode="reschedule", **operator_arguments)
        self.raw_log = raw_log
        self.deferrable = deferrable

    def execute(self, context: Context) -> None:
        """Wait for earlier days' runs to end, then for the logs.

        Raises:
            AirflowFailException: The run has no logical date.
            AirflowSensorTimeout: The logs did not land in time; says which and where.
        """
        if context.get("logical_date") is None:
            raise AirflowFailException(_NO_DATE)
        if earlier := _earlier_in_backfill(context):
            self.log.info("waiting for an earlier day's run", run_id=earlier)
            pause = timedelta(seconds=self.poke_interval)
            raise AirflowRescheduleException(timezone.utcnow() + pause)
        if not self.deferrable:
            try:
                super().execute(context)
            except AirflowSensorTimeout:
                self._give_up(context["ds"])
        elif not self.poke(context):
            self.defer(
                trigger=LandedTrigger(self.raw_log, context["ds"], self.poke_interval),
                method_name="landed",
                timeout=timedelta(seconds=self.timeout),
            )

    def poke(self, context: Context) -> bool:
        """Return whether the run's day has landed; not so far in a store that does not answer."""
        try:
            return context["ds"] in landed_days(self.raw_log)
        except OSError as exc:
            self.log.warning(_UNREAD, error=str(exc))
            return False

    def landed(self, context: Context, event: str) -> None:  # noqa: ARG002 (Airflow's signature)
        """Go on after the trigger fired."""
        self.log.info("the day's logs have landed", partition=f"date={event}/")

    def resume_execution(
        self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context
    ) -> Any:
        """Resume as any deferred task does, but say what was waited for when time was up."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except (TaskDeferralTimeout, AirflowSensorTimeout):
            self._give_up(context["ds"])

    def _give_up(self, day: str) -> NoReturn:
        try:
            days = landed_days(self.raw_log)
            found = f"it names {len(days)} days, the last {days[-1]}" if days else "it names no day"
        except OSError as exc:
            found = f"it cannot be read ({exc})"
        raise AirflowSensorTimeout(
            f"the logs of {day} did not land within {self.timeout / 3600:g} h: partition "
            f"date={day}/ is not in {self.raw_log}/{_SOURCE}; {found}. Deliver the day and clear "
            "this task; later days do not wait for it"
        ) from None


def _earlier_in_backfill(context: Context) -> str | None:
    """Return the running run of an earlier day, when this is one of a backfill's."""
    if context["dag_run"].run_type != "backfill":
        return None
    earlier = context["ti"].get_previous_dagrun(state="running")
    return earlier.run_id if earlier else None
