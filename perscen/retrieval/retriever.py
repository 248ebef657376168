"""Answers from a bundle: which items for this user, in this scenario.

Letters: B queries, K results.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from perscen.data.batches import UserBatch
from perscen.errors import ConfigError
from perscen.retrieval.bundle import Bundle, BundleManifest, open_bundle
from perscen.retrieval.pair import Pair
from perscen.retrieval.raw_users import Click, RawUsers
from perscen.retrieval.served import ServedUsers
from perscen.schema import FIRST_ROW, Schema

logger = logging.getLogger(__name__)

Answer = list[tuple[str, float]]
"""Raw item ids with their scores, best first."""


class Retriever:
    """A verified bundle, ready to answer."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._pairs = {name: _ServingPair(bundle, name) for name in bundle.fingerprints}

    @classmethod
    def open(cls, directory: Path) -> Retriever:
        """Return a retriever on a bundle, after checking all of it and asking its probes.

        Raises:
            ArtifactError: A file, a fingerprint or a probe's answer is not what was released.
        """
        retriever = cls(open_bundle(directory))
        for name, serving in retriever._pairs.items():
            retriever._bundle.open_probes(name).check(serving.pair)
        logger.info("bundle opened", extra={"bundle_id": retriever.manifest.bundle_id})
        return retriever

    @property
    def manifest(self) -> BundleManifest:
        """What the bundle says of itself."""
        return self._bundle.manifest

    @property
    def scenarios(self) -> tuple[str, ...]:
        """The scenarios it answers for."""
        return tuple(self.manifest.scenarios)

    def known_users(self) -> list[str]:
        """Return the raw ids of the users that were shipped, in the order of their table.

        Raises:
            ConfigError: No users were shipped.
        """
        ids: list[str] = next(iter(self._pairs.values())).users.features.ids[FIRST_ROW:].tolist()
        return ids

    def retrieve(self, user: str, scenario: str, k: int) -> Answer:
        """Return the ``k`` best items for a user in a scenario, or all if ``k`` is larger.

        A user the bundle does not know is answered as the unknown user without a history.

        Raises:
            ConfigError: The scenario is not known, ``k`` is under 1, or no users were shipped.
        """
        return self.retrieve_batch([user], scenario, k)[0]

    def retrieve_batch(self, users: Sequence[str], scenario: str, k: int) -> list[Answer]:
        """Return :meth:`retrieve` for several users, in their order.

        Raises:
            ConfigError: As :meth:`retrieve`.
        """
        serving = self._serving(scenario, k)
        rows = serving.users.rows_of(list(users))
        number = serving.schema.scenario_index(scenario)
        answers: list[Answer] = []
        for first in range(0, len(rows), _BLOCK):
            block = rows[first : first + _BLOCK]
            answers += serving.answer(serving.users.batch(block, np.full(len(block), number)), k)
        return answers

    def retrieve_features(
        self,
        features: Mapping[str, object],
        clicks: Sequence[Click],
        scenario: str,
        k: int,
        *,
        shown: Sequence[str] = (),
    ) -> Answer:
        """Return the ``k`` best items for a user whose features and history the caller keeps.

        Args:
            features: Raw values by field name; a field left out or None counts as missing.
            clicks: The user's clicks in all scenarios, oldest first.
            scenario: Where the items will be shown.
            k: How many.
            shown: Items shown to the user and not clicked, oldest first.

        Raises:
            ConfigError: A field is not one of the user tower's, a value is of the wrong type, or as
                :meth:`retrieve`.
        """
        serving = self._serving(scenario, k)
        return serving.answer(serving.raw_users.query(features, clicks, scenario, shown), k)[0]

    def _serving(self, scenario: str, k: int) -> _ServingPair:
        if k < 1:
            raise ConfigError(f"k is {k}, expected 1 or more", hint="ask for at least one item")
        if scenario not in self.manifest.scenarios:
            raise ConfigError(
                f"unknown scenario {scenario!r}",
                hint=f"this bundle knows the scenarios {', '.join(self.scenarios)}",
            )
        return self._pairs[self.manifest.scenarios[scenario]]


_BLOCK = 4096


class _ServingPair:
    """A pair with what turns users into queries for it: all rows are rows of its vocabularies."""

    def __init__(self, bundle: Bundle, fingerprint: str) -> None:
        self.pair: Pair = bundle.open_pair(fingerprint)
        self.schema: Schema = self.pair.model.schema
        self._users = bundle.open_users(fingerprint)
        self.raw_users = RawUsers(self.schema, bundle.model_directory(fingerprint))

    @property
    def users(self) -> ServedUsers:
        if self._users is None:
            raise ConfigError(
                "this bundle was published without users, so none can be looked up",
                hint="use retrieve_features, or publish with publish.include_users",
            )
        return self._users

    def answer(self, users: UserBatch, k: int) -> list[Answer]:
        vectors_BG = self.pair.encode(users)
        scores_BK, items_BK = self.pair.search(vectors_BG, users.scenario_B, k)
        return [
            list(zip(items, scores, strict=True))
            for items, scores in zip(items_BK.tolist(), scores_BK.tolist(), strict=True)
        ]
