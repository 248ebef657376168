"""From one model to the next: warm starts, and the fingerprint that keeps spaces apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from perscen.errors import ArtifactError, ConfigError
from perscen.models.fingerprint import space_fingerprint
from perscen.models.perscen import Perscen
from perscen.models.warm_start import warm_start_from
from perscen.schema import FIRST_ROW
from tests.factories import random_splits
from tests.models.contract import train
from tests.models.test_options import SPLITS, config


def test_a_warm_start_matches_rows_by_value_when_vocabularies_and_scenarios_move() -> None:
    splits = random_splits()
    settings = config(item_bias="popularity", **{"vq.revive_after": 1})
    torch.manual_seed(0)
    old = Perscen(splits.schema, settings)
    train(old, splits, steps=2, lr=0.01)
    tower = splits.schema.item
    fields = tower.categorical
    grown = splits.schema.model_copy(
        update={
            "scenarios": ("s1", "new", "s0"),
            "num_item_rows": splits.schema.num_item_rows + 1,
            "item": tower.model_copy(
                update={
                    "categorical": (
                        fields[0].model_copy(update={"num_rows": fields[0].num_rows + 1}),
                        *fields[1:],
                    )
                }
            ),
        }
    )
    items = ["fresh", *splits.vocabularies["items"]]
    vocabularies = {**splits.vocabularies, "items": items, "item/item_id": items}
    new = Perscen(grown, settings)
    before = {name: weight.clone() for name, weight in new.state_dict().items()}
    warm_start_from(new, old, old_vocabularies=splits.vocabularies, new_vocabularies=vocabularies)
    ours, theirs = new.state_dict(), old.state_dict()
    assert torch.equal(ours["scenario_SD"][[2, 0]], theirs["scenario_SD"])
    assert torch.equal(ours["scenario_SD"][1], before["scenario_SD"][1])
    used = "user_preference.quantise.used_SK"
    assert theirs[used].any()
    assert torch.equal(ours[used][[2, 0]], theirs[used])
    assert not ours[used][1].any()
    prior = "score.prior.log_share_RSK"
    assert theirs[prior].any()
    assert torch.equal(ours[prior], before[prior]), "yesterday's counts are not today's"
    table = "item_fields.table.weight_RD"
    assert torch.equal(ours[table][FIRST_ROW], before[table][FIRST_ROW])
    assert torch.equal(ours[table][FIRST_ROW + 1 :], theirs[table][FIRST_ROW:])
    assert torch.equal(
        ours["user_fusion.gate.state.weight"], theirs["user_fusion.gate.state.weight"]
    )


def test_a_warm_start_from_other_settings_or_fields_names_what_differs_and_copies_nothing() -> None:
    other_fields = SPLITS.schema.model_copy(
        update={"user": SPLITS.schema.user.model_copy(update={"dense": ("age",)})}
    )
    new = Perscen(SPLITS.schema, config())
    before = {name: weight.clone() for name, weight in new.state_dict().items()}
    for old, message in (
        (Perscen(SPLITS.schema, config(out_dim=8)), "model.out_dim was 8 and is 6"),
        (Perscen(SPLITS.schema, config(fusion="gru")), "model.fusion was 'gru' and is 'glu'"),
        (Perscen(other_fields, config()), r"user dense fields were \['age'\]"),
    ):
        with pytest.raises(ConfigError, match=message):
            warm_start_from(
                new,
                old,
                old_vocabularies=SPLITS.vocabularies,
                new_vocabularies=SPLITS.vocabularies,
            )
    assert all(torch.equal(weight, before[name]) for name, weight in new.state_dict().items())


def test_vocabularies_of_another_run_are_refused() -> None:
    vocabularies = {**SPLITS.vocabularies, "user/group": ["a"]}
    model = Perscen(SPLITS.schema, config())
    with pytest.raises(
        ArtifactError, match="user/group has 1 values, but the model has rows for 4"
    ):
        model.axis_labels(vocabularies)


def test_the_fingerprint_is_that_of_weights_settings_and_vocabularies(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = Perscen(SPLITS.schema, config())
    mine = space_fingerprint(model, SPLITS.vocabularies)
    model.save(tmp_path)
    assert space_fingerprint(Perscen.load(tmp_path), dict(SPLITS.vocabularies)) == mine
    renamed = {**SPLITS.vocabularies, "items": SPLITS.vocabularies["items"][::-1]}
    assert space_fingerprint(model, renamed) != mine
    for other in (
        {"score": "cosine"},
        {"temperature": 0.1},
        {"graph.power": "refined"},
        {"seq.pooling": "max"},
    ):
        twin = Perscen(SPLITS.schema, config(**other))
        twin.load_state_dict(model.state_dict())
        assert space_fingerprint(twin, SPLITS.vocabularies) != mine, other
    with torch.no_grad():
        model.item_fields.dense_FD += 1e-6
    assert space_fingerprint(model, SPLITS.vocabularies) != mine
