"""One table from errors to exit codes; `components.fates` says what a scheduler makes of one."""

from __future__ import annotations

from typing import Final

from components.fates import REFUSED, TEMPORARY
from perscen import errors

EXIT_CODES: Final[dict[type[errors.PerscenError], int]] = {
    errors.ConfigError: 78,
    errors.ContractBreach: 65,
    errors.ArtifactError: 66,
    errors.TrainingDiverged: 70,
    errors.ReleaseRefused: REFUSED,
    errors.StorageFull: 74,
    errors.Preempted: TEMPORARY,
    errors.ServiceUnavailable: TEMPORARY,
}
INTERRUPTED: Final = 130
TERMINATED: Final = 128 + 15
"""Told to stop, with nothing to go on from: what a shell shows of a process SIGTERM has ended."""
OUR_BUG: Final = 1


def exit_code(error: BaseException) -> int:
    """Return the exit code of an error: its own, 130 for Ctrl-C, 1 for anything unforeseen."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    for kind, code in EXIT_CODES.items():
        if isinstance(error, kind):
            return code
    return OUR_BUG
