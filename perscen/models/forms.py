"""The two forms of a model that knows no scenarios: one for all of them, or one for each.

Letters: B queries, M distinct items, P (item, scenario) pairs, G width of both towers' vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perscen.data.batches import ItemBatch, UserBatch
from perscen.data.splits import Impressions, Rows, Splits
from perscen.models.config import FormedConfig
from perscen.models.field_towers import FieldTowers
from perscen.models.per_scenario import PerScenario, Routes
from perscen.models.popularity import Seen
from perscen.models.two_tower import EncodedUsers, TwoTower
from perscen.schema import Schema

R = TypeVar("R", Rows, Impressions, Seen)


class Formed(TwoTower):
    """A model in the form its settings ask for.

    ``multi`` is one model with the scenario as a user field. ``single`` is one independent model
    per scenario: it knows no other scenario, its only history is the scenario's own, and it shares
    no parameter; the schedule (batches, the epoch that is kept) alone is common.
    """

    member: ClassVar[Callable[..., FieldTowers]]
    """Makes one model; ``reads_scenario`` says whether it knows which scenario it is in."""

    def __init__(self, schema: Schema, config: FormedConfig) -> None:
        super().__init__(schema, config)
        make = type(self).member
        self.shared: FieldTowers | None = None
        self.members = PerScenario()
        if config.form == "multi":
            self.shared = make(schema, config, reads_scenario=True)
        else:
            self.members.extend(
                make(_of_scenario(schema, scenario), config, reads_scenario=False)
                for scenario in range(len(schema.scenarios))
            )

    @property
    def dim(self) -> int:
        """Width G of both towers' vectors."""
        return self._models()[0].dim

    def encode_users(self, users: UserBatch) -> EncodedUsers:
        """Return the vectors ``[B, G]`` of queries, each within its scenario."""
        if self.shared is not None:
            return self.shared.encode_users(users)
        routes = Routes(users.scenario_B, len(self.members))
        members = self._models()
        encoded = [
            members[scenario].encode_users(_own_past(users.take(rows))) for scenario, rows in routes
        ]
        vectors_BG = routes.join([part.vectors_BG for part in encoded])
        return EncodedUsers(vectors_BG, vectors_BG.new_zeros(()), None)

    def encode_items(self, items: ItemBatch, index_P: Tensor, scenario_P: Tensor) -> Tensor:
        """Return vectors ``[P, G]`` of items in scenarios."""
        if self.shared is not None:
            return self.shared.encode_items(items, index_P, scenario_P)
        routes = Routes(scenario_P, len(self.members))
        members, parts = self._models(), []
        for scenario, pairs in routes:
            met_K, index_K = torch.unique(index_P[pairs], return_inverse=True)
            here = items if len(met_K) == len(items.rows_B) else items.take(met_K)
            parts.append(members[scenario].encode_items(here, index_K, torch.zeros_like(index_K)))
        return routes.join(parts)

    def axis_labels(
        self, vocabularies: Mapping[str, Sequence[str]]
    ) -> dict[str, tuple[Sequence[Hashable], ...]]:
        """Return what rows of tables stand for: vocabulary values and scenario names."""
        if self.shared is not None:
            labels = self.shared.axis_labels(vocabularies)
            return {f"shared.{name}": label for name, label in labels.items()}
        return {
            f"members.{number}.{name}": label
            for number, member in enumerate(self._models())
            for name, label in member.axis_labels(vocabularies).items()
        }

    def start_from(self, splits: Splits) -> None:
        """Start each model from what it may know of."""
        if self.shared is not None:
            self.shared.start_from(splits)
            return
        for scenario, member in enumerate(self._models()):
            of_scenario = replace(
                splits,
                schema=member.schema,
                train=_only(splits.train, scenario),
                impressions=_only(splits.impressions, scenario),
            )
            member.start_from(of_scenario)

    def own_contribution(self, seen: Seen) -> NDArray[np.float64]:
        """Return what each row adds to the score of its own item, from its own model."""
        if self.shared is not None:
            return self.shared.own_contribution(seen)
        own_E = np.zeros(len(seen.item))
        for scenario, member in enumerate(self._models()):
            here_E = np.asarray(seen.scenario) == scenario
            own_E[here_E] = member.own_contribution(_only(seen, scenario))
        return own_E

    def _models(self) -> list[FieldTowers]:
        if self.shared is not None:
            return [self.shared]
        return [member for member in self.members if isinstance(member, FieldTowers)]


def _of_scenario(schema: Schema, scenario: int) -> Schema:
    return schema.model_copy(update={"scenarios": (schema.scenarios[scenario],)})


def _only(rows: R, scenario: int) -> R:
    """Return a scenario's rows, as a model that knows no other numbers them."""
    own = np.asarray(rows.scenario) == scenario
    names = ["user", "item", "time_ms", *(["clicked"] if hasattr(rows, "clicked") else [])]
    columns: dict[str, Any] = {name: np.asarray(getattr(rows, name))[own] for name in names}
    if isinstance(rows, Impressions):
        num_own_before = np.concatenate([[0], np.cumsum(own)])
        columns["user_offsets"] = num_own_before[rows.user_offsets]
    return replace(rows, scenario=np.zeros(int(own.sum()), dtype=np.int32), **columns)


def _own_past(users: UserBatch) -> UserBatch:
    """Return the queries as a model of their scenario alone sees them."""
    return replace(users, history=users.spec_history, scenario_B=torch.zeros_like(users.scenario_B))
