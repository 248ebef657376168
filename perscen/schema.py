"""What a model must know of the data before it sees a row: fields, their sizes, the scenarios.

Row convention of every vocabulary: row 0 stands for padding and for values never seen, row 1 for a
missing value, known values start at row 2. The user and item *tables* follow it too, so item row
``r`` is a real catalogue item exactly when ``r >= FIRST_ROW``.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field as Value

from perscen.section import Section

SpecSeqSource = Literal["independent", "filter_truncated"]

UNKNOWN_ROW: Final = 0
MISSING_ROW: Final = 1
FIRST_ROW: Final = 2


class Field(Section):
    """A categorical or multi-valued field: its name and number of rows, 0 and 1 included."""

    name: str
    num_rows: int


class TowerSchema(Section):
    """The fields of one tower in node order: categorical, dense, multi-valued, sequence."""

    categorical: tuple[Field, ...]
    dense: tuple[str, ...]
    bags: tuple[Field, ...]
    """Multi-valued fields, such as a tag list; pooled into one vector."""
    sequence: bool
    """Whether the last node is the user's pooled clicks over all scenarios."""


class Schema(Section):
    """Both towers' fields, the catalogue and the scenarios."""

    user: TowerSchema
    item: TowerSchema
    scenarios: tuple[str, ...]
    """Raw scenario names, by falling click volume; a scenario's position is its index."""
    num_item_rows: int
    """Rows of the item table, 0 and 1 included."""
    max_seq_len: int
    # Not written when it is the default, so that splits keep the digest they had without it.
    spec_seq_source: SpecSeqSource = Value("independent", exclude_if=lambda v: v == "independent")
    """Where the scenario-specific history comes from, as ``split.spec_seq_source`` had it."""

    def scenario_index(self, name: str) -> int:
        """Return a scenario's index.

        Raises:
            KeyError: The scenario is not known.
        """
        try:
            return self.scenarios.index(name)
        except ValueError:
            raise KeyError(
                f"unknown scenario {name!r}; known: {', '.join(self.scenarios)}"
            ) from None
