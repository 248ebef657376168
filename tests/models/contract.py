"""What every model family must keep: a family brings a factory, not a test suite."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from copy import deepcopy
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perscen.data.batches import ItemSource, UserBatch, UserSource
from perscen.data.splits import Splits
from perscen.models.per_scenario import PerScenario
from perscen.models.two_tower import TwoTower
from perscen.schema import FIRST_ROW, Schema
from perscen.training.losses import Objective
from tests.factories import checkerboard, random_splits
from tests.training.towers import quick


def train_users(splits: Splits, rows: list[int] | None = None) -> UserBatch:
    """Return the queries of training rows; all of them by default."""
    index = np.arange(len(splits.train.user)) if rows is None else np.array(rows, dtype=np.int64)
    source = UserSource(splits)
    return source.batch(splits.train.user, splits.train.scenario, splits.train_slices, index)


def item_vectors(model: TwoTower, splits: Splits) -> Tensor:
    """Return ``[S, R - 2, G]``, every catalogue item in every scenario."""
    rows = torch.arange(FIRST_ROW, splits.schema.num_item_rows)
    scenarios = torch.arange(len(splits.schema.scenarios))
    items = ItemSource(splits.items).batch(rows)
    index = torch.arange(len(rows)).repeat(len(scenarios))
    vectors = model.encode_items(items, index, scenarios.repeat_interleave(len(rows)))
    return vectors.view(len(scenarios), len(rows), -1)


def catalogue_loss(model: TwoTower, splits: Splits) -> Tensor:
    """Return the softmax loss over the whole catalogue, of all training rows at once."""
    users = train_users(splits)
    encoded = model.encode_users(users)
    catalogue = item_vectors(model, splits)[users.scenario_B]
    logits = torch.einsum("bg,brg->br", encoded.vectors_BG, catalogue)
    target = torch.from_numpy(np.array(splits.train.item)).long() - FIRST_ROW
    return F.cross_entropy(logits, target) + encoded.auxiliary_loss


def train(model: TwoTower, splits: Splits, *, steps: int, lr: float) -> None:
    """Train on all rows at once, which is enough for built data."""
    model.train()
    model.start_from(splits)
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(steps):
        optimiser.zero_grad()
        catalogue_loss(model, splits).backward()
        optimiser.step()
    model.eval()


@torch.no_grad()
def recall_1(model: TwoTower, splits: Splits) -> list[float]:
    """Return recall@1 per scenario on validation; what the user clicked there before is masked."""
    queries = splits.valid
    users = UserSource(splits).batch(
        queries.user, queries.scenario, splits.valid_slices, np.arange(len(queries.user))
    )
    vectors, catalogue = model.encode_users(users).vectors_BG, item_vectors(model, splits)
    hits: list[list[bool]] = [[] for _ in splits.schema.scenarios]
    for query, (user, scenario) in enumerate(zip(queries.user, queries.scenario, strict=True)):
        scores = catalogue[scenario] @ vectors[query]
        seen = (splits.train.user == user) & (splits.train.scenario == scenario)
        scores[torch.from_numpy(splits.train.item[seen]).long() - FIRST_ROW] = -torch.inf
        start, end = queries.relevant_offsets[query : query + 2]
        hits[scenario].append(int(scores.argmax()) + FIRST_ROW in queries.relevant[start:end])
    return [float(np.mean(of_scenario)) for of_scenario in hits]


def parts_by_scenario(model: nn.Module) -> Iterator[tuple[nn.Module, int]]:
    """Yield every part of a model that belongs to one scenario, with that scenario."""
    for module in model.modules():
        if isinstance(module, PerScenario):
            for scenario, part in enumerate(module):
                yield part, scenario


class RetrieverContract(ABC):
    """The contract; a subclass says how to make its model and whether it knows the scenario."""

    scenario_aware: ClassVar[bool] = True
    steps: ClassVar[int] = 60
    lr: ClassVar[float] = 0.01

    @abstractmethod
    def make(self, schema: Schema) -> TwoTower:
        """Return a fresh, small model."""

    def fresh(self, splits: Splits, *, seed: int = 0) -> TwoTower:
        torch.manual_seed(seed)
        return self.make(splits.schema)

    def test_a_user_alone_gets_the_vector_he_gets_in_a_batch(self) -> None:
        splits = random_splits()
        model = self.fresh(splits).eval()
        together = model.encode_users(train_users(splits)).vectors_BG
        alone = model.encode_users(train_users(splits, [7])).vectors_BG
        torch.testing.assert_close(alone[0], together[7])

    def test_an_item_alone_gets_the_vector_it_gets_in_the_catalogue(self) -> None:
        splits = random_splits()
        model = self.fresh(splits).eval()
        batch = ItemSource(splits.items).batch(torch.tensor([9]))
        alone = model.encode_items(batch, torch.tensor([0]), torch.tensor([1]))
        torch.testing.assert_close(alone[0], item_vectors(model, splits)[1, 9 - FIRST_ROW])

    def test_a_saved_model_loads_with_equal_vectors(self, tmp_path) -> None:
        splits = random_splits()
        model = self.fresh(splits)
        train(model, splits, steps=2, lr=self.lr)
        model.save(tmp_path)
        loaded = type(model).load(tmp_path)
        users = train_users(splits)
        assert torch.equal(
            loaded.encode_users(users).vectors_BG, model.encode_users(users).vectors_BG
        )
        assert torch.equal(item_vectors(loaded, splits), item_vectors(model, splits))

    def test_the_loss_is_finite_and_reaches_every_parameter(self) -> None:
        splits = random_splits()
        model = self.fresh(splits).train()
        model.start_from(splits)
        loss = catalogue_loss(model, splits)
        loss.backward()
        assert torch.isfinite(loss)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name

    def test_the_same_seed_trains_to_the_same_bits(self) -> None:
        splits = random_splits()
        first, second = self.fresh(splits, seed=3), None
        train(first, splits, steps=3, lr=self.lr)
        second = self.fresh(splits, seed=3)
        train(second, splits, steps=3, lr=self.lr)
        for name, weight in first.state_dict().items():
            assert torch.equal(weight, second.state_dict()[name]), name

    def test_an_unseen_user_without_history_gets_a_finite_vector(self) -> None:
        splits = random_splits()
        model = self.fresh(splits).eval()
        served_row_of_user_0 = np.array([0])
        users = UserSource(splits).batch(
            np.array([0], dtype=np.int32),
            np.array([1], dtype=np.int32),
            splits.served,
            served_row_of_user_0,
        )
        assert torch.isfinite(model.encode_users(users).vectors_BG).all()

    def test_a_batch_without_rows_gives_no_vectors_and_no_loss(self) -> None:
        splits = random_splits()
        model = self.fresh(splits).train()
        model.start_from(splits)
        encoded = model.encode_users(train_users(splits, []))
        nothing = torch.zeros(0, dtype=torch.int64)
        vectors = model.encode_items(ItemSource(splits.items).batch(nothing), nothing, nothing)
        assert encoded.vectors_BG.shape == vectors.shape == (0, model.dim)
        assert encoded.auxiliary_loss == 0
        (encoded.vectors_BG.sum() + vectors.sum() + encoded.auxiliary_loss).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is None or not parameter.grad.any(), name

    @pytest.mark.parametrize("loss", ["sampled_softmax", "full_softmax"])
    def test_a_step_in_mixed_precision_is_near_one_in_full_precision(self, loss) -> None:
        splits = random_splits()
        model = self.fresh(splits)
        train(model, splits, steps=1, lr=self.lr)
        model.train()
        totals = []
        for amp in (False, True):
            objective = Objective(
                model, splits, quick(loss=loss, amp=amp), device=torch.device("cpu")
            )
            torch.manual_seed(0)
            model.zero_grad()
            totals.append(objective(np.arange(20) * 3, epoch=1, step=0).total)
            totals[-1].backward()
        full, mixed = totals
        torch.testing.assert_close(mixed, full, rtol=0.05, atol=0.05)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                assert parameter.grad.dtype == parameter.dtype
                assert torch.isfinite(parameter.grad).all(), name

    @pytest.mark.parametrize("loss", ["sampled_softmax", "full_softmax"])
    def test_one_row_per_pair_gives_the_same_loss_gradients_and_statistics(self, loss) -> None:
        splits = random_splits(num_scenarios=3)
        model = self.fresh(splits)
        train(model, splits, steps=1, lr=self.lr)
        rows = np.arange(0, len(splits.train.item), 3)
        results = []
        for dedup in (True, False):
            twin = deepcopy(model).double().train()
            objective = Objective(
                twin, splits, quick(loss=loss, dedup=dedup), device=torch.device("cpu")
            )
            total = objective(rows, epoch=1, step=0).total
            total.backward()
            results.append((total, {n: p.grad for n, p in twin.named_parameters()}, twin))
        (grouped, gradients, one), (naive, expected, other) = results
        torch.testing.assert_close(grouped, naive, rtol=0, atol=1e-6)
        # Of all: one that is 0 but for rounding, as an item's bias under a softmax, has no size.
        size = max(gradient.abs().max().item() for gradient in expected.values())
        for name, gradient in gradients.items():
            torch.testing.assert_close(
                gradient, expected[name], rtol=1e-5, atol=1e-8 * size, msg=name
            )
        for (name, buffer), (_, theirs) in zip(
            one.named_buffers(), other.named_buffers(), strict=True
        ):
            torch.testing.assert_close(buffer, theirs, msg=name)

    def test_training_on_one_scenario_leaves_what_belongs_to_another_alone(self) -> None:
        splits = random_splits(num_scenarios=3)
        model = self.fresh(splits).train()
        objective = Objective(model, splits, quick(loss="full_softmax"), device=torch.device("cpu"))
        rows = np.flatnonzero(splits.train.scenario == 1)
        objective(rows, epoch=1, step=0).total.backward()
        for part, own in parts_by_scenario(model):
            for name, parameter in part.named_parameters():
                reached = parameter.grad is not None and bool(parameter.grad.any())
                assert own == 1 or not reached, name

    @pytest.mark.medium
    def test_the_checkerboard_is_solved_exactly_by_those_who_know_the_scenario(self) -> None:
        splits = checkerboard()
        model = self.fresh(splits)
        train(model, splits, steps=self.steps, lr=self.lr)
        recalls = recall_1(model, splits)
        if self.scenario_aware:
            assert min(recalls) > 0.9
        else:
            assert max(recalls) < 0.2
