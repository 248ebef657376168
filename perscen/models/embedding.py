"""Fields as vectors, eq. (2): one table per tower, dense weights, pooled sequences.

Letters: B rows of the batch, F fields of one kind, N nodes, V packed values, D embedding width, R
table rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perscen.data.batches import Packed
from perscen.errors import ArtifactError
from perscen.models.config import EmbeddingConfig
from perscen.models.gather import gather, pooled_sum
from perscen.schema import FIRST_ROW, Field, TowerSchema

Pooling = Literal["mean", "sum", "max"]


class FieldTable(nn.Module):
    """The rows of several fields end to end in one matrix, so that a tower gathers once.

    Row 0 of every field (padding, or a value never seen) is the table's row 0: it is zero and stays
    so. Row ``r > 0`` of a field lies at ``starts[field] + r``.
    """

    def __init__(self, fields: Sequence[Field], *, config: EmbeddingConfig) -> None:
        super().__init__()
        self.starts: dict[str, int] = {}
        self._num_rows = {field.name: field.num_rows for field in fields}
        total = 0
        for field in fields:
            self.starts[field.name] = total
            total += field.num_rows - 1
        self.weight_RD = nn.Parameter(torch.empty(total + 1, config.dim))
        nn.init.normal_(self.weight_RD, std=config.init_std)
        with torch.no_grad():
            self.weight_RD[0] = 0

    def forward(self, rows_BF: Tensor, starts_F: Tensor) -> Tensor:
        """Return ``[B, F, D]``, the vectors of each field's row."""
        return gather(self.weight_RD, _below_row_0(rows_BF, starts_F))

    def rows(self, field: str, rows: Tensor) -> Tensor:
        """Return ``rows.shape + [D]``, the vectors of one field's rows."""
        return gather(self.weight_RD, _below_row_0(rows, self.starts[field]))

    def labels(self, tower: str, vocabularies: Mapping[str, Sequence[str]]) -> list[Hashable]:
        """Return what each row of the table stands for: a field and its value.

        Raises:
            ArtifactError: A vocabulary is not as long as the field's rows.
        """
        labels: list[Hashable] = ["padding"]
        for name, num_rows in self._num_rows.items():
            values = vocabularies[f"{tower}/{name}"]
            if len(values) + FIRST_ROW != num_rows:
                raise ArtifactError(
                    f"the vocabulary {tower}/{name} has {len(values):,} values, but the model "
                    f"has rows for {num_rows - FIRST_ROW:,}",
                    hint="model and vocabularies are of different runs; take both from one",
                )
            labels += [(name, None), *((name, value) for value in values)]
        return labels

    def pool(self, field: str, packed: Packed, *, how: Pooling) -> Tensor:
        """Return ``[B, D]``, each row's values pooled; padding does not count, no value gives 0."""
        rows_V = _below_row_0(packed.values_V, self.starts[field])
        if how == "max":
            return F.embedding_bag(
                rows_V,
                self.weight_RD,
                packed.offsets_B1,
                mode="max",
                include_last_offset=True,
                padding_idx=0,
            )
        sum_BD = pooled_sum(self.weight_RD, rows_V, packed.offsets_B1)
        return sum_BD if how == "sum" else sum_BD / count_values(packed).clamp_(min=1)[:, None]


def count_values(packed: Packed) -> Tensor:
    """Return ``[B]`` int64, how many values of each row are not padding."""
    before_V1 = F.pad((packed.values_V > 0).cumsum(0), (1, 0))
    return before_V1[packed.offsets_B1].diff()


class TowerEmbedding(nn.Module):
    """A tower's nodes: categorical, dense, multi-valued, then those that it is given as vectors.

    Args:
        tower: The tower's fields.
        vectors: Names of the nodes that come as vectors already.
        extra_tables: Fields without a node whose rows the table holds all the same.
        exclude: Fields that get no node.
        config: Width and starting spread.
        pooling: How a multi-valued field becomes one vector.
    """

    def __init__(
        self,
        tower: TowerSchema,
        *,
        config: EmbeddingConfig,
        pooling: Pooling,
        vectors: tuple[str, ...] = (),
        extra_tables: tuple[Field, ...] = (),
        exclude: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        kept = [i for i, f in enumerate(tower.categorical) if f.name not in exclude]
        dense = [i for i, name in enumerate(tower.dense) if name not in exclude]
        categorical = [tower.categorical[i] for i in kept]
        self._bags = [(i, f) for i, f in enumerate(tower.bags) if f.name not in exclude]
        self._pooling = pooling
        self.names = (
            *(f.name for f in categorical),
            *(tower.dense[i] for i in dense),
            *(f.name for _, f in self._bags),
            *vectors,
        )
        rows = (*categorical, *(f for _, f in self._bags), *extra_tables)
        self.table = FieldTable(rows, config=config) if rows else None
        if dense:
            self.dense_FD = nn.Parameter(torch.empty(len(dense), config.dim))
            nn.init.normal_(self.dense_FD, std=config.init_std)
        self._kept = _columns(kept, len(tower.categorical))
        self._dense = _columns(dense, len(tower.dense))
        starts = [self.table.starts[f.name] for f in categorical] if self.table else []
        self.register_buffer("starts_F", torch.tensor(starts, dtype=torch.int64), persistent=False)
        self.starts_F: Tensor

    def forward(
        self,
        categorical_BF: Tensor,
        dense_BF: Tensor,
        bags: Sequence[Packed],
        vectors_BD: Sequence[Tensor] = (),
    ) -> Tensor:
        """Return ``[B, N, D]``, one vector per node in the order of ``names``."""
        parts = []
        if self.table is not None and len(self.starts_F):
            parts.append(self.table(categorical_BF[:, self._kept], self.starts_F))
        if hasattr(self, "dense_FD"):
            scalars_BF1 = dense_BF[:, self._dense, None].to(self.dense_FD.dtype)
            parts.append(scalars_BF1 * self.dense_FD)
        if self.table is not None:
            parts += [
                self.table.pool(field.name, bags[i], how=self._pooling)[:, None]
                for i, field in self._bags
            ]
        parts += [vector_BD[:, None] for vector_BD in vectors_BD]
        return torch.cat(parts, dim=1)


def _below_row_0(rows: Tensor, starts: Tensor | int) -> Tensor:
    """Return table rows: row 0 of every field is row 0 of the table."""
    return (rows + starts) * (rows > 0)


def _columns(kept: list[int], total: int) -> slice | list[int]:
    """Return an index of the kept columns that copies nothing when all are kept."""
    return slice(None) if len(kept) == total else kept
