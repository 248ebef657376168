"""Everything that can go wrong, as a tree; ``components.exit_codes`` gives each leaf a code.

PerscenError
├── ConfigError          a setting is wrong
├── ContractBreach       rows break the data contract beyond tolerance
├── ArtifactError        an artifact is missing, of the wrong kind, changed, or too new
├── TrainingDiverged     the loss is not finite
├── ReleaseRefused       the verdict did not pass
├── StorageFull          disk or quota full
├── Preempted            told to stop; a checkpoint was written
└── ServiceUnavailable   a registry or store did not answer
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


class PerscenError(Exception):
    """An error with a message (what happened, what was expected) and a hint (what to do)."""

    headline = "perscen failed"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(PerscenError):
    """A setting is wrong; the message names the field's path."""

    headline = "a setting is wrong"


class ContractBreach(PerscenError):
    """Rows break the data contract beyond its tolerance."""

    headline = "the data breaks its contract"

    def __init__(self, message: str, *, hint: str = "", report_path: Path | None = None) -> None:
        super().__init__(message, hint=hint)
        self.report_path = report_path


class ArtifactError(PerscenError):
    """An artifact is missing, unfinished, of the wrong kind, changed since made, or too new."""

    headline = "an artifact cannot be used"


class TrainingDiverged(PerscenError):
    """The training loss is not finite; before the first epoch it is that of no one scenario."""

    headline = "training diverged"

    def __init__(
        self, message: str, *, epoch: int, step: int, scenario: str | None, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.epoch = epoch
        self.step = step
        self.scenario = scenario


class ReleaseRefused(PerscenError):
    """The verdict on the candidate did not pass; the champion stays in place."""

    headline = "the release was refused"

    def __init__(self, reasons: Mapping[str, Sequence[str]]) -> None:
        lines = [f"{scenario}: {reason}" for scenario, why in reasons.items() for reason in why]
        super().__init__(
            "the gate refused the candidate:\n  " + "\n  ".join(lines),
            hint="the champion stays in place; the verdict and the report say what to look at",
        )
        self.reasons = {scenario: tuple(why) for scenario, why in reasons.items()}


class StorageFull(PerscenError):
    """The disk or the quota is full; nothing half-written was left behind."""

    headline = "no space left"


class Preempted(PerscenError):
    """The process was told to stop and wrote a checkpoint; running it again resumes there."""

    headline = "preempted"


class ServiceUnavailable(PerscenError):
    """A registry or an object store did not answer; trying again later can help."""

    headline = "a service did not answer"


def unknown_name(what: str, name: str, known: Iterable[str]) -> ConfigError:
    """Return the error for a name that there is not, with those that there are, in their order."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return ConfigError(
        f"there is no {what} {name!r}; there are {', '.join(known)}",
        hint=f"did you mean {near[0]!r}?" if near else "",
    )
