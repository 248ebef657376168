"""Rows without training answer as what they are named after."""

from __future__ import annotations

import numpy as np
import torch

from perscen.config import EvaluateConfig
from perscen.experiments.rankers import RANKERS
from perscen.models.popularity import PopularityPrior
from perscen.schema import FIRST_ROW
from tests.models.test_popularity import by_taste


def test_the_prior_alone_ranks_by_what_it_adds_to_a_models_score() -> None:
    splits = by_taste()
    num_items = splits.schema.num_item_rows - FIRST_ROW
    rows = np.arange(len(splits.test.user))
    found = RANKERS["popularity_prior"](splits, EvaluateConfig(), 0).rank(rows, num_items)
    prior = PopularityPrior(splits.schema, segments=True)
    prior.start_from(splits)
    items = torch.arange(num_items) + FIRST_ROW
    for row in rows:
        user = torch.from_numpy(splits.users.categorical_RF[splits.test.user[[row]]])
        scenario = torch.full_like(items, int(splits.test.scenario[row]))
        scores = (prior.user(user) @ prior.item(items, scenario).T)[0]
        order = torch.argsort(-scores, stable=True) + FIRST_ROW
        assert found[row].tolist() == order.tolist()
