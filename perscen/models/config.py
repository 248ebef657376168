"""The settings of the models, one class per family; leaf names as in the specification.

Defaults are the paper's where it gives them (Du et al. 2025, arXiv:2506.18382, Table 6) and
the recipe ``paper`` uses them unchanged; ``perscen.recipes`` holds what ships.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

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
    """Steps without use after which a code is moved onto a random row of the batch."""
    mask_empty: bool = False
    """Leave users without a scenario history out of the quantiser's loss."""


class GluConfig(Section):
    """The progressive gated units, eq. (13)."""

    width: Literal["out", "fields"] = "out"
    bias: bool = True


class ItemTowerConfig(Section):
    """The item side."""

    scenario_aware: bool = True
    share_scenario_encoder: bool = False


class PerscenConfig(Section):
    """PERSCEN (Du et al. 2025, arXiv:2506.18382)."""

    family: Literal["perscen"] = "perscen"
    emb: EmbeddingConfig = EmbeddingConfig()
    seq: SequenceConfig = SequenceConfig()
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
    score: Literal["dot", "cosine"] = "dot"
    temperature: float = Field(1.0, gt=0)
    learn_temperature: bool = False
    item_bias: Literal["none", "popularity"] = "none"
    """``popularity`` adds one bias per (item, scenario), started at the log of its shrunk, decayed
    click share: one more dimension of both vectors, so retrieval stays one inner product."""
    dropout: float = Field(0.0, ge=0, lt=1)
    exclude_fields: tuple[str, ...] = ()
    """Fields of either tower that get no node in the graph."""
    shown_sequence: bool = False
    """One more user node: the pooled items shown to the user but not clicked."""


ModelConfig = PerscenConfig
