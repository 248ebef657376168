"""``python -m components.torchrun [torchrun's options] -m components train …``: a shared training.

torchrun itself (``torch.distributed.run``), with its options and ``PET_*`` variables, but for how
it ends: torchrun ends with 1 whatever a process ended with, and a scheduler could not tell a wrong
setting from a preemption. Here the exit code is the step's own. SIGTERM is handed on to the
processes, which are given time for their checkpoint, and ends with 75. Nothing is restarted here:
the scheduler does that.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from typing import Final

from components.exit_codes import INTERRUPTED, OUR_BUG
from components.fates import TEMPORARY, Fate, fate

logger = logging.getLogger(__name__)

GRACE_S: Final = 600
"""How long processes may take to end after SIGTERM. A pod's own grace period may be shorter."""


def main(argv: Sequence[str] | None = None) -> None:
    """Start the processes, wait for them, and leave with the exit code of what happened."""
    # The first process of a container ignores SIGTERM unless it has a handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TEMPORARY))
    sys.exit(_launch(sys.argv[1:] if argv is None else argv))


def most_telling(codes: Iterable[int]) -> int:
    """Return the one exit code that says why processes ended, given in the order they did.

    Who loses the others ends with 75, and whoever is left gets SIGTERM: so what failed by itself
    comes first, and a signal last.
    """
    ended = [code if code >= 0 else 128 - code for code in codes]
    failed = [code for code in ended if fate(code) is not Fate.RETRY]
    told = [code for code in failed if code != OUR_BUG]
    temporary = [code for code in ended if code == TEMPORARY]
    return [*told, *failed, *temporary, *ended][0]


def _launch(argv: Sequence[str]) -> int:
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import determine_local_world_size, parse_args, run

    arguments = parse_args(argv)  # type: ignore[no-untyped-call]
    if arguments.shutdown_timeout is None:
        arguments.shutdown_timeout = GRACE_S
    # torchrun's own default is one thread, and a warning about it.
    processes = determine_local_world_size(arguments.nproc_per_node)
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    # NCCL then raises an error in who lost the others; else it aborts the process, which looks
    # like a bug and is not tried again.
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    try:
        run(arguments)  # type: ignore[no-untyped-call]
    except ChildFailedError as exc:
        return most_telling(failure.exitcode for failure in exc.failures.values())
    except SignalException as exc:
        return INTERRUPTED if exc.sigval == signal.SIGINT else TEMPORARY
    except (RendezvousError, DistError) as exc:
        said = str(exc) or type(exc).__name__
        logger.error("the machines of this training did not find each other: %s", said)  # noqa: TRY400
        return TEMPORARY
    return 0


if __name__ == "__main__":
    main()
