"""Runs as processes of one torch thread each, as many at a time as the machine bears."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

import psutil
import torch

from perscen.errors import PerscenError
from perscen.experiments.making import PinnedSplits, make_run
from perscen.experiments.runs import Run, RunFacts, Work

logger = logging.getLogger(__name__)

_MEMORY_PER_RUN: Final = 2 * 2**30
"""Bytes; twice what a training of PERSCEN on KuaiRand-Pure takes at its peak."""
_CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_CGROUP_USED: Final = Path("/sys/fs/cgroup/memory.current")
_POLL_S: Final = 1.0


@dataclass(frozen=True)
class Failure:
    """Why a run did not finish.

    Attributes:
        kind: Name of the error, such as ``TrainingDiverged``; empty for what nobody foresaw.
        trace: Where it happened, when nobody foresaw it and the process could still tell.
    """

    reason: str
    kind: str = ""
    hint: str = ""
    trace: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a run: facts, or a failure.

    Attributes:
        took_s: Seconds from start to end.
    """

    run: Run
    facts: RunFacts | None = None
    failure: Failure | None = None
    took_s: float = 0.0


@dataclass
class Underway:
    """A run that is being made.

    Attributes:
        doing: What its process does just now, such as ``epoch 3`` or ``scoring``.
    """

    run: Run
    process: BaseProcess
    connection: Connection
    started_s: float
    doing: str = "starting"

    @property
    def spent_s(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started_s


def default_jobs() -> int:
    """Return how many runs the machine bears at a time: by its cores, and by its free memory."""
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # in a container, what that may still take
        free = min(free, int(_CGROUP_LIMIT.read_text()) - int(_CGROUP_USED.read_text()))
    return max(1, min(len(os.sched_getaffinity(0)), free // _MEMORY_PER_RUN))


def make_runs(
    runs: Sequence[Run],
    splits: PinnedSplits,
    work: Work,
    *,
    jobs: int,
    revision: str | None = None,
    watch: Callable[[Sequence[Underway]], None] = lambda _: None,
) -> Iterator[Outcome]:
    """Make the runs in their order and yield what became of each as it ends.

    One that fails does not stop the others. However this ends, no process outlives it: they watch
    over their parent, whatever they do meanwhile.

    Args:
        runs: What to make.
        splits: What they are made on; a run fails when that is replaced meanwhile.
        work: Where the results are kept.
        jobs: How many at a time, at least 1.
        revision: Of the code, for the record.
        watch: Told about once a second what is being made.
    """
    # A forked child would share torch's state and the parent's locks.
    context = multiprocessing.get_context("spawn")
    waiting, underway = list(runs), list[Underway]()
    try:
        while waiting or underway:
            while waiting and len(underway) < jobs:
                run = waiting.pop(0)
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(
                    target=_child, args=(sender, run, splits, work, revision), daemon=True
                )
                with _deaf_to_ctrl_c():
                    process.start()
                sender.close()
                underway.append(Underway(run, process, receiver, time.monotonic()))
            watch(underway)
            ready = wait([one.connection for one in underway], timeout=_POLL_S)
            for one in [one for one in underway if one.connection in ready]:
                outcome = _receive(one)
                if outcome is not None:
                    underway.remove(one)
                    yield outcome
    finally:
        for one in underway:
            one.process.terminate()
        for one in underway:
            one.process.join()
            one.connection.close()


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Let what is started within inherit a mask that keeps SIGINT out.

    Ctrl-C reaches all processes of a terminal, but it is the parent that ends the others: they
    would die with a traceback each, some before the first line of ours has run.
    """
    resource_tracker.ensure_running()  # else the first start would start it, and lift the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _receive(one: Underway) -> Outcome | None:
    """Return what became of a run, or None when it goes on."""
    try:
        told = one.connection.recv()
    except (EOFError, OSError):  # killed, it may be in the middle of a word
        told = None
    if isinstance(told, str):
        one.doing = told
        return None
    one.process.join()
    one.connection.close()
    if isinstance(told, RunFacts):
        return Outcome(one.run, facts=told, took_s=one.spent_s)
    if isinstance(told, Failure):
        return Outcome(one.run, failure=told)
    return Outcome(one.run, failure=Failure(_how_it_died(one.process.exitcode)))


def _how_it_died(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        memory = "; the machine may be out of memory, try fewer --jobs" if -code == 9 else ""
        return f"its process was ended by {name}{memory}"
    return f"its process left with exit code {code} and without a word"


def _child(
    connection: Connection, run: Run, splits: PinnedSplits, work: Work, revision: str | None
) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    told: RunFacts | Failure
    try:
        told = make_run(run, splits, work, revision=revision, tell=connection.send)
    except PerscenError as exc:
        told = Failure(exc.message, kind=type(exc).__name__, hint=exc.hint)
    except Exception as exc:  # noqa: BLE001 (told by the parent, with its trace)
        told = Failure(f"{type(exc).__name__}: {exc}", trace=traceback.format_exc())
    with suppress(BrokenPipeError):  # the parent is gone: nobody asks
        connection.send(told)


def _end_with_parent() -> None:
    """End this process as soon as its parent is gone: the next one makes the same runs."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
