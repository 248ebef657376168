"""The settings of a run: one frozen tree, read from ``params.yaml``, whose typos stop the run.

The sections are DVC's params keys; a step sees its own sections only. The model's settings live in
``perscen.models.config`` beside the code that reads them.
"""

from __future__ import annotations

import difflib
from datetime import date
from pathlib import Path
from typing import Any, Final, Literal, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from perscen.errors import ConfigError
from perscen.models.config import FAMILY_CONFIGS, ModelConfig
from perscen.schema import SpecSeqSource
from perscen.section import Section

_FEWEST_DAYS: Final = 3
"""One for each window."""


class RunConfig(Section):
    """Which day the run is for."""

    logical_date: date
    """Last day of the test window. Dates come from here, never from the clock."""


class DataConfig(Section):
    """How the raw log is read."""

    utc_offset_hours: int = Field(8, ge=-12, le=14)
    """Time zone in which a day begins; both public data sets are in Beijing time."""
    trailing_days: int = Field(3, ge=1)
    """Days before the newest one against which its row count is compared."""
    window_days: int = Field(11, ge=_FEWEST_DAYS)
    """Days up to the logical date that must be there: training, validation and test together."""

    @classmethod
    def holding(cls, split: SplitConfig) -> Self:
        """Return settings for splits that are there, whose own data settings are not known."""
        return cls(window_days=max(_FEWEST_DAYS, split.num_days))


class SplitConfig(Section):
    """Windows, scenarios and histories."""

    train_days: int | None = Field(None, ge=1)
    """Windows counted back from the logical date, over days that have rows: all three, or ..."""
    valid_days: int | None = Field(None, ge=1)
    test_days: int | None = Field(None, ge=1)
    train: tuple[date, date] | None = None
    """... explicit windows, first and last day included."""
    valid: tuple[date, date] | None = None
    test: tuple[date, date] | None = None
    day_from: Literal["event_time", "log_date"] = "event_time"
    """Which day an interaction belongs to: that of its time, or the log's own date column."""
    num_scenarios: int = Field(4, ge=1)
    scenarios: tuple[str, ...] | None = None
    """Raw scenario names; found by click volume when not given."""
    min_interactions: int = Field(2, ge=1)
    min_interactions_scope: Literal["train", "all"] = "train"
    max_seq_len: int = Field(50, ge=1)
    spec_seq_source: SpecSeqSource = "independent"
    """The scenario's latest clicks, or those among the latest clicks of all scenarios."""
    eval_history: Literal["window_start", "train_only"] = "window_start"

    @property
    def num_days(self) -> int:
        """Days from the first of training to the last of the test window."""
        if self.train and self.test:
            return (self.test[1] - self.train[0]).days + 1
        return sum(n or 0 for n in (self.train_days, self.valid_days, self.test_days))

    @model_validator(mode="after")
    def _one_way_to_say_the_windows(self) -> SplitConfig:
        counted = (self.train_days, self.valid_days, self.test_days)
        explicit = (self.train, self.valid, self.test)
        if all(w is not None for w in explicit) and all(n is None for n in counted):
            return self
        if all(n is not None for n in counted) and all(w is None for w in explicit):
            return self
        raise ValueError(
            "give train_days, valid_days and test_days, "
            "or train, valid and test as [first, last]; not a mix"
        )


class NegativesConfig(Section):
    """Sampled negatives."""

    n: int = Field(10, ge=1)
    pool: Literal["catalogue", "train_items"] = "catalogue"
    exclude: Literal["none", "positive", "user_history"] = "positive"
    resample: Literal["step", "epoch", "once"] = "step"


class OptimConfig(Section):
    """Adam."""

    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-6, ge=0)
    decoupled: bool = False
    """AdamW's decay instead of Adam's L2 term."""
    weight_average: float = Field(0.0, ge=0, lt=1)
    """Decay per step of a running mean of the weights, which is then what is validated and kept;
    0 keeps the weights themselves."""
    sparse_embeddings: bool = False
    """Row-wise lazy Adam on the tables: another update rule, faster on huge catalogues."""


class BatchConfig(Section):
    """How positives are grouped into steps."""

    size: int = Field(4096, ge=1)
    unit: Literal["pairs", "positives"] = "pairs"
    """With "pairs", a batch holds floor(size / (n + 1)) positives with their negatives."""
    by_scenario: bool = False
    """Draw each batch from one scenario, in proportion to its volume."""


class ShownConfig(Section):
    """Impressions without a click as positives of less weight: they say what can be met where."""

    weight: float = Field(0.0, ge=0)
    """What such a row counts in the loss, measured in clicks; 0 trains on clicks alone."""
    per_click: float = Field(2.0, gt=0)
    """Such rows that an epoch has at most for each click, drawn anew for each epoch."""


class SelfTrainingConfig(Section):
    """Clicks of other scenarios as positives, where the model is surest of them."""

    share: float = Field(0.0, ge=0, le=1)
    """Of a scenario's candidates, which are its users' clicks elsewhere, at the end; 0 is none."""
    warmup: int = Field(3, ge=1)
    """Epochs without any, in which the model learns to judge them."""
    ramp: int = Field(5, ge=1)
    """Epochs after those in which the share grows evenly to ``share``."""


class TrainConfig(Section):
    """The training loop."""

    loss: Literal["bce", "sampled_softmax", "full_softmax"] = "bce"
    """``full_softmax`` normalises over the whole catalogue within the sample's scenario."""
    softmax_items: int = Field(2048, ge=1)
    """Items that a step of ``full_softmax`` looks at: of a larger catalogue so many are drawn for
    each step, popular ones more often, and weighed for it (logQ)."""
    vq_weight: float = Field(1.0, ge=0)
    """Of the codebook's loss, eq. (10), beside the task's; it weighs no other loss of a model."""
    neg: NegativesConfig = NegativesConfig()
    optim: OptimConfig = OptimConfig()
    batch: BatchConfig = BatchConfig()
    shown: ShownConfig = ShownConfig()
    self_training: SelfTrainingConfig = SelfTrainingConfig()
    max_epochs: int = Field(50, ge=1)
    patience: int = Field(5, ge=1)
    """Epochs without a better validation recall, unweighted mean over scenarios, to stop."""
    min_steps: int = Field(0, ge=0)
    """Optimiser steps before which patience does not count: past the plateau of popularity, whose
    length is a matter of steps, not of epochs."""
    monitor_k: int = Field(100, ge=1)
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    amp: bool = False
    dedup: bool = True
    """Grouped, de-duplicated computation; false is the naive path, one row per pair."""
    warm_start: bool = False
    """Start from the champion's weights; rows of ids it did not know start fresh."""
    num_threads: int = Field(0, ge=0)
    """Threads for torch; 0 leaves its own choice."""
    checkpoint_every_s: float = Field(60.0, gt=0)


class IndexConfig(Section):
    """The published indexes."""

    flat_below: int = Field(200_000, ge=0)
    """Catalogues smaller than this get an exact index."""
    recall_target: float = Field(0.98, gt=0, le=1)
    """Share of the exact top K an approximate index must return; its parameters are chosen to."""
    recall_k: int = Field(100, ge=1)


class EvaluateConfig(Section):
    """Recall and hits."""

    ks: tuple[int, ...] = (50, 100)
    candidates: Literal["catalogue", "train_items"] = "catalogue"
    exclude_seen: bool = False
    segment_columns: int = Field(2, ge=1)
    """User columns that make a segment of the segment-popularity baseline."""


class GateConfig(Section):
    """The plain gates; statistical settings as in docs/architecture/gates.md."""

    k: int = Field(50, ge=1)
    floor: float = Field(0.0, ge=0, le=1)
    """Absolute recall floor of every scenario."""
    alpha: float = Field(0.05, gt=0, lt=0.5)
    power: float = Field(0.8, gt=0.5, lt=1)
    relative_margin: float = Field(0.10, ge=0)
    absolute_margin: float = Field(0.0, ge=0)
    min_differing_users: int = Field(20, ge=2)
    """With fewer users scored differently by two models, nothing is concluded from them."""
    resamples: int = Field(10_000, ge=100)
    seed: int = Field(0, ge=0)
    code_usage_floor: float = Field(0.30, ge=0, le=1)
    index_recall_floor: float = Field(0.95, ge=0, le=1)
    quarantine_watch: float = Field(0.05, ge=0, le=1)
    """Share of raw rows in quarantine from which the verdict mentions it; it never blocks."""


class PublishConfig(Section):
    """Where releases go."""

    name: str = Field("perscen", min_length=1)
    """Registered model in MLflow."""
    probes: int = Field(64, ge=1)
    """Canary users per scenario that a stored bundle must answer as it did when made."""
    include_users: bool = True
    """Ship user features and histories, so that known users are served without a feature store."""


class Config(Section):
    """The whole of ``params.yaml``."""

    run: RunConfig
    data: DataConfig = DataConfig()
    split: SplitConfig
    model: ModelConfig
    train: TrainConfig = TrainConfig()
    index: IndexConfig = IndexConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    gate: GateConfig = GateConfig()
    publish: PublishConfig = PublishConfig()

    @model_validator(mode="after")
    def _the_windows_fit_the_data(self) -> Config:
        split = self.split
        if split.train_days and split.num_days > self.data.window_days:
            raise ValueError(
                f"split needs {split.num_days} days (train_days + valid_days + test_days), "
                f"but data.window_days keeps {self.data.window_days}"
            )
        return self

    @model_validator(mode="after")
    def _single_has_no_other_scenario(self) -> Config:
        if getattr(self.model, "form", "multi") == "multi":
            return self
        neg = self.train.neg
        across_scenarios = {
            "self_training.share": self.train.self_training.share > 0,
            "neg.pool: train_items": neg.pool == "train_items",
            "neg.exclude: user_history": neg.exclude == "user_history",
        }
        for setting, is_asked in across_scenarios.items():
            if is_asked:
                raise ValueError(
                    f"train.{setting} has no meaning with model.form: single, whose models never "
                    "learn from another scenario's clicks: leave it at its default"
                )
        return self


def read_config(path: Path) -> Config:
    """Return the settings in a YAML file.

    Raises:
        ConfigError: The file is missing, is no YAML mapping, or has a key or value that is not
            allowed; the message names the field and, for an unknown key, the nearest right one.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist", hint="give --config the path of a params.yaml"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is not readable as YAML: {exc}", hint="fix the file") from exc
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds {type(tree).__name__}, expected a mapping of sections")
    return parse_config(tree, origin=str(path))


def parse_config(tree: dict[str, Any], *, origin: str) -> Config:
    """Return the settings in a mapping; ``origin`` names it in messages.

    Raises:
        ConfigError: As :func:`read_config`.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as exc:
        raise _explained(exc, origin=origin) from exc


def parse_split(settings: dict[str, Any], *, origin: str) -> SplitConfig:
    """Return the settings that an artifact says its splits were made with.

    Raises:
        ConfigError: As :func:`read_config`.
    """
    try:
        return SplitConfig.model_validate(settings)
    except ValidationError as exc:
        raise _explained(exc, origin=origin, section="split") from exc


def _explained(error: ValidationError, *, origin: str, section: str | None = None) -> ConfigError:
    within = [section] if section else []
    lines = [f"{origin}: {_explain(each, within=within)}" for each in error.errors()]
    return ConfigError(
        "\n".join(lines), hint="`perscen params` prints every setting with its meaning"
    )


def _explain(error: Any, *, within: list[str]) -> str:
    kind, loc = error["type"], within + [str(part) for part in error["loc"]]
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _explain_family(error["input"])
    family = _family_in(loc)
    if family:
        del loc[1]  # the union's tag is no part of the path
    field = ".".join(loc)
    if kind == "value_error":  # of settings that do not go together: the whole section is no help
        return ": ".join(filter(None, [field, str(error["ctx"]["error"])]))
    if kind != "extra_forbidden":
        return f"{field}: {error['msg']} (got {error['input']!r})"
    known = _keys_at(loc[:-1], family)
    near = difflib.get_close_matches(loc[-1], known, n=1, cutoff=0.5)
    advice = f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(sorted(known))}."
    others = [
        name
        for name, config in FAMILY_CONFIGS.items()
        if family and len(loc) == 2 and loc[1] in config.model_fields
    ]
    if others:
        advice = f" {', '.join(others)} has it, {family} does not.{'' if near else advice}"
    return f"{field} is not a setting{f' of {family}' if family else ''}.{advice}"


def _explain_family(model: Any) -> str:
    known = sorted(FAMILY_CONFIGS)
    given = model.get("family") if isinstance(model, dict) else None
    if given is None:
        return f"model.family is missing. Known: {', '.join(known)}."
    near = difflib.get_close_matches(str(given), known, n=1, cutoff=0.5)
    advice = f"Did you mean {near[0]!r}? " if near else ""
    return f"model.family: {given!r} is not a family. {advice}Known: {', '.join(known)}."


def _family_in(loc: list[str]) -> str:
    """Return the family that stands in a place below ``model``, as pydantic's union writes it."""
    return loc[1] if len(loc) > 1 and loc[0] == "model" and loc[1] in FAMILY_CONFIGS else ""


def _keys_at(loc: list[str], family: str) -> list[str]:
    model: type[BaseModel] = Config
    for part in loc:
        field = model.model_fields.get(part)
        annotation = field.annotation if field else None
        if part == "model" and model is Config and family:
            annotation = FAMILY_CONFIGS[family]
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
