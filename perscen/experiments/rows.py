"""What is compared: every row of every table of results, as data.

A row is a family with a recipe and changes to it, or a ranker without training. Names of the
changes are those of ``params.yaml``; tables follow Du et al. 2025 (arXiv:2506.18382): 4 and 7
(``main``), 5 (``ablations``), Figs. 6-8 (``sweeps``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

Changes = Mapping[str, Any]
_NONE: Final[Changes] = {}


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: What it is called on the command line, in files and in MLflow.
        title: What it is called in tables.
        family: The model's family; None for a ranker of
            :data:`perscen.experiments.rankers.RANKERS`, which is not trained.
        recipe: Where its settings come from.
        changes: Settings that differ from the recipe's, by dotted name (``model.form``).
        beside: The row that it is the same as but for one thing.
        chance: Whether a ranker draws by chance, so that seeds matter.
    """

    name: str
    title: str
    family: str | None = "perscen"
    recipe: str = "paper"
    changes: Changes = field(default_factory=dict)
    beside: str = ""
    chance: bool = False


@dataclass(frozen=True)
class Block:
    """Rows of a table under conditions that are alike; best and second best are marked within.

    Attributes:
        subject: The row whose differences to all others are told; empty when there is none.
    """

    title: str
    rows: tuple[str, ...]
    subject: str = ""


@dataclass(frozen=True)
class Sweep:
    """Rows that differ in one number, drawn as a line over it."""

    name: str
    title: str
    points: Mapping[float, str]
    """The row at each value of the setting."""


@dataclass(frozen=True)
class Table:
    """A page of results."""

    name: str
    title: str
    blocks: tuple[Block, ...]
    sweeps: tuple[Sweep, ...] = ()

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of all rows, each once."""
        return tuple(dict.fromkeys(name for block in self.blocks for name in block.rows))

    def only(self, names: Collection[str]) -> Table:
        """Return the table with no other rows than these."""
        blocks = [
            replace(
                block,
                rows=tuple(name for name in block.rows if name in names),
                subject=block.subject if block.subject in names else "",
            )
            for block in self.blocks
        ]
        sweeps = [
            replace(sweep, points={v: row for v, row in sweep.points.items() if row in names})
            for sweep in self.sweeps
        ]
        return replace(
            self,
            blocks=tuple(block for block in blocks if block.rows),
            sweeps=tuple(sweep for sweep in sweeps if sweep.points),
        )


def _paper(name: str, title: str, family: str, changes: Changes = _NONE, beside: str = "") -> Row:
    return Row(name, title, family, "paper", changes, beside)


def _best(name: str, title: str, family: str, changes: Changes = _NONE, beside: str = "") -> Row:
    return Row(name, title, family, "best", changes, beside)


def _without_parts(base: str, *, recipe: str, prefix: str = "") -> list[Row]:
    """Return PERSCEN without each of its parts (Table 5), and with GRUs in place of its GLUs."""
    variants: list[tuple[str, str, Changes]] = [
        ("no_gnn", "w/o GNN", {"model.interaction": "mlp"}),
        ("shared_graph", "w/ shared graph", {"model.graph.source": "shared"}),
        ("no_spec_sequence", "w/o spec sequence", {"model.pref.sequence": "none"}),
        ("no_vq", "w/o VQ", {"model.vq.codebook_size": 0}),
        ("no_glu", "w/o GLU", {"model.fusion": "direct"}),
        ("gru", "w/ GRU", {"model.fusion": "gru"}),
    ]
    return [
        Row(prefix + name, title, "perscen", recipe, changes, beside=base)
        for name, title, changes in variants
    ]


def _values(setting: str, name: str, title: str, values: Sequence[float]) -> list[Row]:
    return [
        Row(f"{name}_{value:g}", f"{title} {value:g}", changes={setting: value}, beside="perscen")
        for value in values
    ]


_ITEM: Final[Changes] = {"model.item_scenario": True}
_SPEC: Final[Changes] = {"model.use_spec_sequence": True}

_ROWS: Final[tuple[Row, ...]] = (
    # The paper's models: each with its own settings and loss, all trained alike.
    _paper("youtube_dnn_s", "YoutubeDNN-S", "youtube_dnn", {"model.form": "single"}),
    _paper("dssm_s", "DSSM-S", "dssm", {"model.form": "single"}),
    _paper("youtube_dnn_m", "YoutubeDNN-M", "youtube_dnn"),
    _paper("dssm_m", "DSSM-M", "dssm"),
    _paper("ican", "ICAN", "ican"),
    _paper("adin", "ADIN", "adin"),
    _paper("sass_base", "SASS-base", "sass", {"model.pretrain": False}),
    _paper("sass", "SASS", "sass"),
    _paper("m5", "M5", "m5"),
    Row("perscen", "PERSCEN"),
    # The same with everything of the recipe that ships but what is PERSCEN's own.
    _best("youtube_dnn_m_best", "YoutubeDNN-M", "youtube_dnn"),
    _best("dssm_m_best", "DSSM-M", "dssm"),
    _best("dssm_m_item_scenario_best", "DSSM-M, scenario in both towers", "dssm", _ITEM),
    _best("ican_best", "ICAN", "ican"),
    _best("adin_best", "ADIN", "adin"),
    _best("sass_best", "SASS", "sass"),
    _best("m5_best", "M5", "m5"),
    _best("self_attention_best", "self-attention", "self_attention"),
    Row("best", "PERSCEN", recipe="best"),
    # What needs no training.
    Row("ease_blend", "EASE + popularity", family=None),
    Row("popularity_prior", "the prior of `best` alone", family=None),
    Row("segment_popularity", "segment popularity", family=None),
    Row("scenario_popularity", "scenario popularity", family=None),
    Row("global_popularity", "global popularity", family=None),
    Row("random", "random", family=None, chance=True),
    # PERSCEN in parts.
    *_without_parts("perscen", recipe="paper"),
    *_without_parts("best", recipe="best", prefix="best_"),
    _best(
        "best_user_scenario",
        "w/ scenario in the graph",
        "perscen",
        {"model.user_scenario": True},
        "best",
    ),
    _best(
        "best_linear_start",
        "w/ GLUs started as `nn.Linear`",
        "perscen",
        {"model.glu.init": "linear"},
        "best",
    ),
    # How much of a gain is popularity per scenario, and how much the scenario's own clicks.
    _paper("dssm_m_item_scenario", "DSSM-M, scenario in both towers", "dssm", _ITEM, "dssm_m"),
    _paper("m5_item_scenario", "M5, scenario in both towers", "m5", _ITEM, "m5"),
    _paper("youtube_dnn_m_spec", "YoutubeDNN-M + spec", "youtube_dnn", _SPEC, "youtube_dnn_m"),
    _paper("dssm_m_spec", "DSSM-M + spec", "dssm", _SPEC, "dssm_m"),
    _paper(
        "dssm_m_item_scenario_spec",
        "DSSM-M, scenario in both towers + spec",
        "dssm",
        {**_ITEM, **_SPEC},
        "dssm_m_item_scenario",
    ),
    _paper("adin_spec", "ADIN + spec", "adin", _SPEC, "adin"),
    _paper("sass_spec", "SASS + spec", "sass", _SPEC, "sass"),
    _paper("m5_spec", "M5 + spec", "m5", _SPEC, "m5"),
    # One number at a time; the paper's own value is the row perscen, no codebook is no_vq.
    *_values("model.gnn.layers", "layers", "GNN layers", (1, 2, 4)),
    *_values("model.vq.codebook_size", "codes", "codebook size", (2, 5, 20, 50, 100)),
    *_values("model.vq.beta", "beta", "β", (0.0, 0.5, 0.75, 1.0)),
)
ROWS: Final[Mapping[str, Row]] = {row.name: row for row in _ROWS}

_UNTRAINED: Final = Block(
    "without training",
    (
        "ease_blend",
        "popularity_prior",
        "segment_popularity",
        "scenario_popularity",
        "global_popularity",
        "random",
    ),
)

_MAIN: Final = Table(
    "main",
    "All models",
    (
        Block(
            "the paper's recipe",
            (
                "youtube_dnn_s",
                "dssm_s",
                "youtube_dnn_m",
                "dssm_m",
                "ican",
                "adin",
                "sass_base",
                "sass",
                "m5",
                "perscen",
            ),
            subject="perscen",
        ),
        Block(
            "one recipe for all: `best`",
            (
                "youtube_dnn_m_best",
                "dssm_m_best",
                "dssm_m_item_scenario_best",
                "ican_best",
                "adin_best",
                "sass_best",
                "m5_best",
                "self_attention_best",
                "best",
            ),
            subject="best",
        ),
        _UNTRAINED,
    ),
)

_PARTS: Final = ("no_gnn", "shared_graph", "no_spec_sequence", "no_vq", "no_glu", "gru")

_ABLATIONS: Final = Table(
    "ablations",
    "PERSCEN in parts",
    (
        Block("the paper's recipe", (*_PARTS, "perscen")),
        Block(
            "the recipe `best`",
            (
                *(f"best_{part}" for part in _PARTS),
                "best_user_scenario",
                "best_linear_start",
                "best",
            ),
        ),
    ),
)

_ITEM_TOWER: Final = Table(
    "item-tower",
    "The scenario in the item tower, and the scenario's own clicks",
    (
        Block(
            "the paper's recipe",
            (
                "youtube_dnn_m",
                "youtube_dnn_m_spec",
                "dssm_m",
                "dssm_m_spec",
                "dssm_m_item_scenario",
                "dssm_m_item_scenario_spec",
                "adin",
                "adin_spec",
                "sass",
                "sass_spec",
                "m5",
                "m5_spec",
                "m5_item_scenario",
                "perscen",
            ),
            subject="perscen",
        ),
        _UNTRAINED,
    ),
)

_SWEEPS: Final = (
    Sweep(
        "layers",
        "number of GNN layers",
        {1: "layers_1", 2: "layers_2", 3: "perscen", 4: "layers_4"},
    ),
    Sweep(
        "codes",
        "codebook size",
        {
            0: "no_vq",
            2: "codes_2",
            5: "codes_5",
            10: "perscen",
            20: "codes_20",
            50: "codes_50",
            100: "codes_100",
        },
    ),
    Sweep(
        "beta",
        "β",
        {0: "beta_0", 0.25: "perscen", 0.5: "beta_0.5", 0.75: "beta_0.75", 1: "beta_1"},
    ),
)

TABLES: Final[Mapping[str, Table]] = {
    table.name: table
    for table in (
        _MAIN,
        _ABLATIONS,
        _ITEM_TOWER,
        Table(
            "sweeps",
            "One number of PERSCEN at a time",
            tuple(Block(sweep.title, tuple(sweep.points.values())) for sweep in _SWEEPS),
            _SWEEPS,
        ),
    )
}
