"""The settings of the models, one class per family.

A family has the settings it reads and no others. Defaults are the paper's where it gives them (Du
et al. 2025, arXiv:2506.18382, Table 6); ``perscen.recipes`` says what each recipe changes.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from perscen.section import Section


class EmbeddingConfig(Section):
    """Field embeddings, eq. (2)."""

    dim: int = Field(16, ge=1)
    init_std: float = Field(0.05, gt=0)


class SequenceConfig(Section):
    """How a click sequence becomes one vector."""

    pooling: Literal["mean", "sum", "max"] = "mean"


class GraphConfig(Section):
    """The personal feature graph and its refinement, eq. (4)."""

    source: Literal["personal", "shared"] = "personal"
    share_mlp: bool = False
    """One generator over all nodes, told apart by their one-hot, instead of one per node."""
    power: Literal["raw", "refined", "same"] = "raw"
    self_loop: Literal["one", "keep", "zero"] = "one"
    normalise: Literal["minmax", "degree", "none"] = "minmax"
    """``minmax`` scales a graph's entries to [0, 1]; ``degree`` also divides each by the roots of
    its two nodes' sums; ``none`` keeps the generator's numbers. The same entries stay."""
    keep_ratio: float = Field(0.5, ge=0, le=1)
    sparsify: Literal["global_topk", "row_topk", "threshold", "none"] = "global_topk"
    threshold: float = Field(0.5, ge=0, le=1)
    """Smallest normalised weight kept by ``sparsify: threshold``."""


class GnnConfig(Section):
    """Message passing, eqs. (5), (6)."""

    layers: int = Field(3, ge=1, le=8)
    """Also the number of fusion layers."""
    activation: Literal["none", "leaky_relu_except_last"] = "none"
    share_weights: bool = False


class PreferenceConfig(Section):
    """The scenario-aware preference, eqs. (7), (11), (12)."""

    dim: int = Field(16, ge=1)
    sequence: Literal["spec", "none"] = "spec"


class VqConfig(Section):
    """The vector quantiser, eqs. (8)-(10)."""

    codebook_size: int = Field(10, ge=0)
    """0 means no quantiser."""
    beta: float = Field(0.25, ge=0)
    gradient: Literal["ste", "residual_only", "literal"] = "ste"
    init: Literal["first_batch", "uniform", "kmeans"] = "first_batch"
    ema_decay: float | None = Field(None, gt=0, lt=1)
    revive_after: int | None = Field(None, ge=1)
    """Steps without use after which a code is moved onto a random row of the batch. What a
    scenario's latest batch used is in use until its next one, however far that is."""
    mask_empty: bool = False
    """Leave users without a scenario history out of the quantiser's loss."""


class GluConfig(Section):
    """The progressive gated units, eq. (13)."""

    width: Literal["out", "fields"] = "out"
    bias: bool = True
    init: Literal["linear", "lecun"] = "linear"
    """How the weights that read a graph's hidden states begin: as ``nn.Linear`` does, or three
    times as varied and without biases, so that users, and items, differ from the first step."""


class ItemTowerConfig(Section):
    """The item side."""

    scenario_aware: bool = True
    share_scenario_encoder: bool = False


class TwoTowerConfig(Section):
    """What every family has: its fields as vectors, and how two vectors become a score."""

    family: str
    emb: EmbeddingConfig = EmbeddingConfig()
    seq: SequenceConfig = SequenceConfig()
    score: Literal["dot", "cosine"] = "dot"
    temperature: float = Field(1.0, gt=0)
    learn_temperature: bool = False
    item_bias: Literal["none", "popularity", "segments"] = "none"
    """``popularity`` adds the log of an item's share of its scenario's clicks, shrunk and decayed:
    one more dimension of both vectors, so retrieval stays one inner product. ``segments`` adds its
    share among users like the query's instead: one dimension per cell of users."""
    dropout: float = Field(0.0, ge=0, lt=1)
    exclude_fields: tuple[str, ...] = ()
    """Fields of either tower that the model does not read; ``history`` and ``shown`` too, but for
    the history of families that read clicks one by one."""
    shown_sequence: bool = False
    """One more user field: the pooled items shown to the user but not clicked."""


class PerscenConfig(TwoTowerConfig):
    """PERSCEN (Du et al. 2025, arXiv:2506.18382)."""

    family: Literal["perscen"] = "perscen"
    user_scenario: bool = False
    """The scenario as one more user field: the graph is then the user's within the scenario."""
    interaction: Literal["gnn", "mlp"] = "gnn"
    graph: GraphConfig = GraphConfig()
    gnn: GnnConfig = GnnConfig()
    pref: PreferenceConfig = PreferenceConfig()
    vq: VqConfig = VqConfig()
    fusion: Literal["glu", "gru", "direct", "direct_concat"] = "glu"
    glu: GluConfig = GluConfig()
    out_dim: int = Field(64, ge=1)
    gate_out: Literal["scalar", "vector"] = "scalar"
    item_tower: ItemTowerConfig = ItemTowerConfig()


Widths = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
"""Of the layers of an MLP, the output's last."""


class BaselineConfig(TwoTowerConfig):
    """What every model that PERSCEN is compared with has."""

    use_spec_sequence: bool = False
    """One more user field: the pooled clicks of the query's own scenario."""


class FormedConfig(BaselineConfig):
    """A model that knows no scenarios, in either of its two forms."""

    form: Literal["multi", "single"] = "multi"
    """``multi`` is one model, with the scenario as one more user field; ``single`` is one
    independent model per scenario, which reads that scenario's clicks alone."""

    @model_validator(mode="after")
    def _single_has_no_other_scenario(self) -> Self:
        # What was shown is one history over all scenarios: there is none of a scenario's own.
        for name in ("use_spec_sequence", "item_scenario", "shown_sequence"):
            if self.form == "single" and getattr(self, name, False):
                raise ValueError(
                    f"{name} has no meaning with form: single, so set it to false: its models know "
                    "one scenario and its clicks alone"
                )
        return self


class DssmConfig(FormedConfig):
    """DSSM (Huang et al. 2013), an MLP on either side, as a recommender."""

    family: Literal["dssm"] = "dssm"
    widths: Widths = (256, 128, 64)
    """Of both towers' layers; the last is the width of their vectors."""
    item_scenario: bool = False
    """The scenario as one more item field: one index per scenario instead of one for all."""
    score: Literal["dot", "cosine"] = "cosine"
    temperature: float = Field(0.1, gt=0)


class YoutubeDnnConfig(FormedConfig):
    """YoutubeDNN (Covington et al. 2016): an MLP for the user, a row of a table for the item."""

    family: Literal["youtube_dnn"] = "youtube_dnn"
    widths: Widths = (128, 64)
    """Of the user tower's hidden layers; its vectors are as wide as the embeddings."""
    score: Literal["dot", "cosine"] = "cosine"
    temperature: float = Field(0.05, gt=0)


def _check_heads(width: int, heads: int, *, name: str = "emb.dim") -> None:
    if width % heads:
        raise ValueError(f"{name}: {width} cannot be shared by heads: {heads}")


class IcanConfig(TwoTowerConfig):
    """ICAN: attention over the clicks of every scenario, by the scenario that is asked for."""

    family: Literal["ican"] = "ican"
    attributes: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """What a click is read by: ``item_id`` and item fields. By default the id, and of author_id,
    tag, cate_id and brand those that items have."""
    heads: int = Field(4, ge=1)
    """Of the attention between groups; they share ``emb.dim`` evenly."""
    mask_empty_groups: bool = False
    """Give groups of clicks without any click no weight; the published code gives them some."""
    widths: Widths = (128, 64, 64)
    """Of the user tower's layers; the last is the width of both towers' vectors."""
    item_widths: tuple[Annotated[int, Field(ge=1)], ...] = (128,)
    """Of the item tower's hidden layers."""
    item_id_only: bool = False
    """The item's embedding instead of an item tower; both vectors are then ``emb.dim`` wide."""

    @model_validator(mode="after")
    def _heads_share_the_embedding(self) -> Self:
        _check_heads(self.emb.dim, self.heads)
        return self


class AdinConfig(BaselineConfig):
    """ADIN: shared and scenario-specific networks over domain-normalised fields."""

    family: Literal["adin"] = "adin"
    dsbn: bool = True
    """Normalise by the statistics of the scenario's own rows."""
    sea: bool = True
    """Weigh fields by the scenario (squeeze and excitation)."""
    sea_scale: Literal["double_sigmoid", "sigmoid", "relu", "none"] = "double_sigmoid"
    """How a field's weight follows from its logit; ``double_sigmoid`` starts near 1."""
    hidden: int = Field(128, ge=1)
    """Width of the shared layer and of each scenario's own."""
    fusion: Literal["concat", "sum"] = "concat"
    widths: Widths = (128, 64)
    """Of each scenario's forward network; the last is the width of both towers' vectors."""


class SassConfig(BaselineConfig):
    """SASS: a network for all scenarios and one per scenario, joined by gates."""

    family: Literal["sass"] = "sass"
    widths: Widths = (128, 64)
    """Of the layers of the shared network and of each scenario's."""
    out_dim: int = Field(64, ge=1)
    pretrain: bool = True
    """Before the first epoch, learn to find a user (an item) of one scenario again in another, on
    all impressions of the training window, clicked or not; false is SASS-base."""
    pretrain_epochs: int = Field(5, ge=1)
    pretrain_temperature: float = Field(0.1, gt=0)
    pretrain_batch: int = Field(512, ge=2)
    """Users, and items, that are told apart in one step; at most so many of each."""
    user_pretrain: Literal["counterfactual", "skip"] = "counterfactual"
    """What is done for users where each is in one scenario only: pair it with another one at
    random, or learn from items alone."""


class MaskedItemsConfig(Section):
    """Clicks hidden while training, to be told from those around them."""

    weight: float = Field(0.0, ge=0)
    """Of that loss beside the task's; 0 hides none."""
    share: float = Field(0.15, gt=0, lt=1)
    """Of the clicks, drawn anew in each step."""


class M5Config(BaselineConfig):
    """M5: a scenario gate on the clicks, self-attention, and split experts."""

    family: Literal["m5"] = "m5"
    heads: int = Field(2, ge=1)
    """Of the attention between clicks; they share ``emb.dim`` evenly."""
    shared_experts: int = Field(4, ge=1)
    """Beside the one that each scenario owns."""
    widths: Widths = (256, 64)
    """Of an expert's layers; the last is the width of both towers' vectors."""
    item_widths: Widths = (128,)
    """Of the item tower's hidden layers."""
    item_scenario: bool = False
    """The scenario as one more item field: one index per scenario instead of one for all."""
    content: tuple[str, ...] = ()
    """Item fields, such as author_id and tag, that a second half reads clicks and items by instead
    of their ids; without any there is no such half. Both vectors are then twice as wide."""
    masked_items: MaskedItemsConfig = MaskedItemsConfig()

    @model_validator(mode="after")
    def _heads_share_the_embedding(self) -> Self:
        _check_heads(self.emb.dim, self.heads)
        return self


class SelfAttentionConfig(BaselineConfig):
    """Self-attention over the clicks, asked by the scenario: what sequence models can do here."""

    family: Literal["self_attention"] = "self_attention"
    token_width: int = Field(64, ge=1)
    """Of a click, a shown item and the scenario within the attention."""
    heads: int = Field(2, ge=1)
    """They share ``token_width`` evenly."""
    blocks: int = Field(2, ge=1, le=8)
    """Of self-attention, one after the other."""
    shown_tokens: bool = True
    """Where shown items are read (``shown_sequence``), each is a token beside the clicks, instead
    of all of them one more user field."""
    widths: Widths = (128, 64)
    """Of the user tower's layers after the attention; the last is the width of both towers'
    vectors."""
    item_widths: Widths = (128,)
    """Of the item tower's hidden layers."""
    item_scenario: bool = True
    """The scenario as one more item field: one index per scenario instead of one for all."""

    @model_validator(mode="after")
    def _heads_share_the_tokens(self) -> Self:
        _check_heads(self.token_width, self.heads, name="token_width")
        return self


ModelConfig = Annotated[
    PerscenConfig
    | DssmConfig
    | YoutubeDnnConfig
    | IcanConfig
    | AdinConfig
    | SassConfig
    | M5Config
    | SelfAttentionConfig,
    Field(discriminator="family"),
]
"""The settings of one model; ``family`` says of which."""

FAMILY_CONFIGS: Final[dict[str, type[TwoTowerConfig]]] = {
    kind.model_fields["family"].default: kind
    for kind in (
        PerscenConfig,
        DssmConfig,
        YoutubeDnnConfig,
        IcanConfig,
        AdinConfig,
        SassConfig,
        M5Config,
        SelfAttentionConfig,
    )
}
"""The settings of every family by its name."""


def read_model_config(text: str) -> ModelConfig:
    """Return the settings that a model was saved with, whatever its family."""
    return _MODEL_CONFIG.validate_json(text)


_MODEL_CONFIG: Final[TypeAdapter[ModelConfig]] = TypeAdapter(ModelConfig)
