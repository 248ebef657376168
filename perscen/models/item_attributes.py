"""What the catalogue says of each item, kept with the model, so that clicks can be read by it.

Histories hold item rows alone. A model that reads the authors or tags of clicked items must know
them wherever it answers, so they are part of it, and are saved with its weights.

Letters: R item rows, A categorical attributes, V packed values.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perscen.data.batches import Packed
from perscen.data.splits import Splits
from perscen.errors import ConfigError
from perscen.models.config import TwoTowerConfig
from perscen.schema import Schema


class ItemAttributes(nn.Module):
    """Categorical and multi-valued fields of every catalogue item.

    Args:
        schema: The data's fields.
        names: Item fields to keep.
        config: Settings of the model that asks for them.
        setting: Which of those names the fields.

    Raises:
        ConfigError: A name is no categorical or multi-valued field of items, or is excluded.
    """

    def __init__(
        self, schema: Schema, names: Sequence[str], config: TwoTowerConfig, *, setting: str
    ) -> None:
        super().__init__()
        categorical = [field.name for field in schema.item.categorical]
        bags = [field.name for field in schema.item.bags]
        for name in names:
            if name not in (*categorical, *bags):
                near = difflib.get_close_matches(name, (*categorical, *bags), n=1)
                raise ConfigError(
                    f"model.{setting}: {name!r} is no categorical or multi-valued item field",
                    hint=f"did you mean {near[0]!r}?"
                    if near
                    else f"there are {', '.join((*categorical, *bags))}",
                )
        if hidden := sorted({*names} & {*config.exclude_fields}):
            raise ConfigError(
                f"model.{setting} reads {', '.join(hidden)}, which model.exclude_fields hides",
                hint="take it out of one of them",
            )
        self._columns = {name: categorical.index(name) for name in names if name in categorical}
        self._bags = {name: bags.index(name) for name in names if name in bags}
        num_rows = schema.num_item_rows
        for name in self._columns:
            self.register_buffer(f"{name}_R", torch.zeros(num_rows, dtype=torch.int64))
        for name in self._bags:
            self.register_buffer(f"{name}_V", torch.zeros(0, dtype=torch.int64))
            self.register_buffer(f"{name}_R1", torch.zeros(num_rows + 1, dtype=torch.int64))

    def start_from(self, splits: Splits) -> None:
        """Take over what the catalogue says; it is no weight and nothing trains it."""
        for name, column in self._columns.items():
            self._set(f"{name}_R", np.asarray(splits.items.categorical_RF)[:, column])
        for name, number in self._bags.items():
            self._set(f"{name}_V", splits.items.bags[number].values)
            self._set(f"{name}_R1", splits.items.bags[number].offsets)

    def of(self, name: str, clicks: Packed) -> Packed:
        """Return the values of one attribute of each row's clicked items, laid end to end."""
        if name in self._columns:
            return Packed(getattr(self, f"{name}_R")[clicks.values_V], clicks.offsets_B1)
        offsets_R1: Tensor = getattr(self, f"{name}_R1")
        per_click = Packed(getattr(self, f"{name}_V"), offsets_R1).take(clicks.values_V)
        return Packed(per_click.values_V, per_click.offsets_B1[clicks.offsets_B1])

    def _set(self, name: str, values: Any) -> None:
        buffer: Tensor = getattr(self, name)
        setattr(self, name, torch.from_numpy(np.array(values, dtype=np.int64)).to(buffer.device))

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # How many values the lists of all items have is known to the saved model alone.
        for name in self._bags:
            saved = state_dict.get(f"{prefix}{name}_V")
            if saved is not None:
                own: Tensor = getattr(self, f"{name}_V")
                setattr(self, f"{name}_V", own.new_zeros(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
