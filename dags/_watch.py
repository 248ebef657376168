"""Ends a step for good when its grace is over, from outside the process of its task.

``python _watch.py PID PIDFD GRACE_S`` waits until its standard input ends: the task was told to
stop and closed it, or died and could not. A step that still runs ``GRACE_S`` seconds later is
killed, with all it has started. Airflow gives a task that it stops five seconds, then SIGKILL:
nothing inside the task can wait for a checkpoint that takes longer.
"""

import os
import select
import signal
import sys


def main(leader: int, pidfd: int, grace_s: float) -> None:
    """Watch the process group of a step."""
    sys.stdin.buffer.read()
    ended = select.poll()
    ended.register(pidfd, select.POLLIN)
    # While the leader runs, no other group can have its number.
    if not ended.poll(1_000 * grace_s):
        os.killpg(leader, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
