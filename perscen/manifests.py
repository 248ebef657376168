"""What each artifact says of itself: one manifest per directory, a union told apart by ``kind``.

A manifest holds only what follows from inputs, settings and code, so that the same three give the
same bytes. When and by which run an artifact was made stands in ``run.json`` beside it.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

SCHEMA_VERSION: Final = 1


class Record(BaseModel):
    """Base of everything written to JSON: frozen, and no unknown key passes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Manifest(Record):
    """What every manifest says.

    Attributes:
        digest: sha256 over the payload's sorted names and contents and over this manifest's own
            other fields, 64 hexadecimal digits.
        parents: Digest of each input artifact, by name.
        code_version: Hash of the files the step is made of.
        config_digest: Hash of the settings the step read.
        settings: Those settings, by section of ``params.yaml``: with them, the code and the parents
            the artifact can be made again.
    """

    schema_version: Literal[1] = 1
    step: str
    logical_date: date
    code_version: str
    config_digest: str
    settings: dict[str, dict[str, Any]] = {}
    parents: dict[str, str]
    digest: str = ""


class CleanLogManifest(Manifest):
    """Rows that keep the contract, by day, with the others in quarantine."""

    kind: Literal["clean_log"] = "clean_log"
    source: str
    rows_in: int
    rows_good: int
    rows_quarantined: int
    rows_dropped: int
    """Exact duplicates."""
    rule_counts: dict[str, int]
    """Broken rows per rule, over all days."""
    days: list[date]
    """Days with clean rows, ascending."""
    excluded_days: dict[date, str]
    """Days that broke the contract beyond tolerance, left out, with the reason."""
    utc_offset_hours: int
    """Time zone in which a day of the log begins."""


class Window(Record):
    """A closed range of days."""

    first: date
    last: date


class SplitsManifest(Manifest):
    """Leak-free windows, vocabularies and histories."""

    kind: Literal["splits"] = "splits"
    scenarios: list[str]
    """Raw scenario names by falling click volume in the training window."""
    train: Window
    valid: Window
    test: Window
    num_items: int
    num_users: int
    """Users with at least one kept training row."""
    rows: dict[str, dict[str, int]]
    """Rows of each window ("train", "valid", "test") per scenario."""


class ModelManifest(Manifest):
    """A trained pair of towers."""

    kind: Literal["model"] = "model"
    family: str
    recipe_digest: str
    """Hash of the model and train sections without the seed."""
    fingerprint: str
    """The space the vectors live in: weights of both towers, vocabularies, width, metric."""
    num_parameters: int
    best_epoch: int
    epochs: int
    valid_recall: dict[str, float]
    """Validation recall at the monitored K per scenario, at the best epoch."""
    code_usage: dict[str, float]
    """Share of the codebook in use per scenario, in [0, 1]; empty without a codebook."""
    code_queries: dict[str, int] = {}
    """Validation queries with clicks in their scenario, which that was seen on."""
    num_codes: int = 0
    """Size of the codebook; 0 without one."""


class IndexRecord(Record):
    """One scenario's index."""

    kind: Literal["flat", "ivf"]
    parameters: dict[str, int]
    num_items: int
    recall: float
    """Share of the exact top K that the index returns, in [0, 1], on validation queries."""


class IndexesManifest(Manifest):
    """One index per scenario."""

    kind: Literal["indexes"] = "indexes"
    model_digest: str
    fingerprint: str
    dim: int
    indexes: dict[str, IndexRecord]


class ChampionManifest(Manifest):
    """The release this run is compared with, or none: the newest with an earlier logical date."""

    kind: Literal["champion"] = "champion"
    name: str
    version: str | None
    bundle_id: str | None
    champion_date: date | None
    """Logical date of the champion's own run."""


class ScoresManifest(Manifest):
    """Per-user scores of candidate, champion and baselines."""

    kind: Literal["scores"] = "scores"
    model_digest: str
    indexes_digest: str
    champion_bundle_id: str | None
    ks: list[int]
    num_users: dict[str, int]
    """Evaluated users per scenario."""


class VerdictManifest(Manifest):
    """The gate's decision on one model with its indexes."""

    kind: Literal["verdict"] = "verdict"
    model_digest: str
    indexes_digest: str
    decision: Literal["promote", "refuse"]


class ReportManifest(Manifest):
    """One self-contained page; the page itself stays outside the digest."""

    kind: Literal["report"] = "report"
    page: str = "index.html"


class ReleaseManifest(Manifest):
    """What was published; registry name and version stand in ``release.json``."""

    kind: Literal["release"] = "release"
    bundle_id: str
    fingerprint: str


class SourceFile(Record):
    """One file of the raw layout."""

    rows: int
    sha256: str


class RawLogManifest(Record):
    """What the raw layout says of its source (``source.json``); not made by a step."""

    kind: Literal["raw_log"] = "raw_log"
    schema_version: Literal[1] = 1
    source: Literal["kuairand-pure", "alimama", "synthetic"]
    contracts: dict[str, str]
    """Contract per table ("log", "users", "items"), by file stem in ``data_contracts``."""
    files: dict[str, SourceFile]


AnyManifest = Annotated[
    CleanLogManifest
    | SplitsManifest
    | ModelManifest
    | IndexesManifest
    | ChampionManifest
    | ScoresManifest
    | VerdictManifest
    | ReportManifest
    | ReleaseManifest,
    Field(discriminator="kind"),
]
MANIFEST: Final[TypeAdapter[AnyManifest]] = TypeAdapter(AnyManifest)
