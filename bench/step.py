"""The training step at the KuaiRand shape against one row per (positive, negative) pair.

Three ways to the same loss on the same negatives, interleaved in one process, by CPU time:

plain       one row per pair, equation by equation (tests/models/reference.py)
row-wise    one row per pair through our own model
grouped     our step: users once per positive, items once per distinct (item, scenario)

Run: ``python -m bench.step [--repeats 5]``; ``--only grouped`` alone shows its own peak memory.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.report import Result
from perscen.data.batches import ItemBatch, Packed, UserBatch, pack
from perscen.data.fields import KUAIRAND
from perscen.models.config import PerscenConfig
from perscen.models.gather import spread
from perscen.models.perscen import Perscen
from perscen.schema import FIRST_ROW, Field, Schema, TowerSchema
from perscen.training.allocator import keep_freed_memory
from tests.models import reference

NUM_ITEMS, NUM_USERS, NEGATIVES, HISTORY = 7_583, 27_285, 10, 50
SCENARIO_SHARES = (0.84, 0.09, 0.04, 0.03)
POSITIVES = (4096, 372)
"""A large batch, and the most positives whose pairs are no more than 4,096."""
TARGET, MEMORY_TARGET_GB = 10.0, 1.5


def kuairand_schema(*, num_items: int = NUM_ITEMS) -> Schema:
    """Return 32 user nodes and 8 item nodes, sized like KuaiRand-Pure's, or with more items."""
    sizes = {"user_id": NUM_USERS, "item_id": num_items, "author_id": 6_000, "music_id": 5_000}

    def fields(names: tuple[str, ...]) -> tuple[Field, ...]:
        return tuple(Field(name=n, num_rows=sizes.get(n, 10) + FIRST_ROW) for n in names)

    return Schema(
        user=TowerSchema(
            categorical=fields(KUAIRAND.user.categorical),
            dense=KUAIRAND.user.dense,
            bags=(),
            sequence=True,
        ),
        item=TowerSchema(
            categorical=fields(KUAIRAND.item.categorical),
            dense=KUAIRAND.item.dense,
            bags=(Field(name="tag", num_rows=70),),
            sequence=False,
        ),
        scenarios=("1", "4", "2", "0"),
        num_item_rows=num_items + FIRST_ROW,
        max_seq_len=HISTORY,
    )


class Step:
    """One step's data: positives with their negatives, and the whole catalogue."""

    def __init__(self, schema: Schema, positives: int, *, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def rows(count: int, fields: tuple[Field, ...]) -> Tensor:
            columns = [
                torch.randint(FIRST_ROW, f.num_rows, (count,), generator=generator) for f in fields
            ]
            return torch.stack(columns, dim=1)

        def packed(count: int, longest: int, high: int) -> Packed:
            lengths = torch.randint(0, longest + 1, (count,), generator=generator)
            offsets = F.pad(lengths.cumsum(0), (1, 0))
            values = torch.randint(FIRST_ROW, high, (int(offsets[-1]),), generator=generator)
            return Packed(values, offsets)

        num_rows = schema.num_item_rows
        shares = torch.tensor(SCENARIO_SHARES)
        scenario_B = torch.multinomial(shares, positives, True, generator=generator)
        self.users = UserBatch(
            categorical_BF=rows(positives, schema.user.categorical),
            dense_BF=torch.randn(positives, len(schema.user.dense), generator=generator),
            bags=(),
            history=packed(positives, HISTORY, num_rows),
            spec_history=packed(positives, HISTORY, num_rows),
            shown=packed(positives, 0, num_rows),
            scenario_B=scenario_B,
        )
        categorical = rows(num_rows, schema.item.categorical)
        categorical[:, 0] = torch.arange(num_rows)
        self.catalogue = ItemBatch(
            rows_B=torch.arange(num_rows),
            categorical_BF=categorical,
            dense_BF=torch.randn(num_rows, len(schema.item.dense), generator=generator),
            bags=(packed(num_rows, 3, 70),),
        )
        shape = (positives, NEGATIVES + 1)
        self.items_BC = torch.randint(FIRST_ROW, num_rows, shape, generator=generator)
        self.labels_BC = F.one_hot(torch.zeros(positives, dtype=torch.int64), shape[1]).float()
        pair_row = torch.arange(positives).repeat_interleave(shape[1])
        self.pair_users = _user_rows(self.users, pair_row)
        self.pair_items = _item_rows(self.catalogue, self.items_BC.flatten())


def grouped_loss(model: Perscen, step: Step) -> Tensor:
    """Users once per positive, items once per distinct (item, scenario)."""
    num_scenarios = len(model.schema.scenarios)
    keys_BC = step.items_BC * num_scenarios + step.users.scenario_B[:, None]
    used = torch.bincount(keys_BC.flatten(), minlength=len(step.catalogue.rows_B) * num_scenarios)
    key_P = used.nonzero()[:, 0]
    place = torch.empty_like(used)
    place[key_P] = torch.arange(len(key_P))
    encoded = model.encode_users(step.users)
    items_PG = model.encode_items(step.catalogue, key_P // num_scenarios, key_P % num_scenarios)
    logits_BC = _inner_products(encoded.vectors_BG, items_PG, place[keys_BC])
    loss = F.binary_cross_entropy_with_logits(logits_BC, step.labels_BC)
    return loss + encoded.auxiliary_loss


def row_wise_loss(model: Perscen, step: Step) -> Tensor:
    """One row per pair in both towers of our model."""
    encoded = model.encode_users(step.pair_users)
    items = model.encode_items(
        step.pair_items, torch.arange(len(step.pair_items.rows_B)), step.pair_users.scenario_B
    )
    logits = (encoded.vectors_BG * items).sum(dim=1)
    loss = F.binary_cross_entropy_with_logits(logits, step.labels_BC.flatten())
    return loss + encoded.auxiliary_loss


def plain_loss(model: Perscen, step: Step) -> Tensor:
    """One row per pair, equation by equation."""
    users, auxiliary = reference.user_vectors(model, step.pair_users)
    items = reference.item_vectors(model, step.pair_items, step.pair_users.scenario_B)
    logits = (users * items).sum(dim=1)
    return F.binary_cross_entropy_with_logits(logits, step.labels_BC.flatten()) + auxiliary


WAYS: dict[str, Callable[[Perscen, Step], Tensor]] = {
    "plain": plain_loss,
    "row-wise": row_wise_loss,
    "grouped": grouped_loss,
}


def run(*, repeats: int = 5) -> list[Result]:
    """Print both batch sizes and return the ratios at the larger one."""
    ratios, _ = (measure(n, repeats=repeats, ways=list(WAYS)) for n in POSITIVES)
    return [
        Result("training step, against one row per pair", ratios["plain"], TARGET),
        Result("the same through our own kernels", ratios["row-wise"], TARGET),
    ]


def run_memory() -> list[Result]:
    """Return the peak memory of this process after a few of our steps."""
    measure(POSITIVES[0], repeats=2, ways=["grouped"])
    return [Result("peak memory of our step", peak_gb(), MEMORY_TARGET_GB, "GB")]


def measure(positives: int, *, repeats: int, ways: list[str]) -> dict[str, float]:
    """Print CPU time per step and losses at one batch size; return times over the last's."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    keep_freed_memory()
    schema = kuairand_schema()
    torch.manual_seed(0)
    model = Perscen(schema, PerscenConfig()).train()
    step = Step(schema, positives)
    model.encode_users(step.users)  # the codebook starts from its first batch
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    losses: dict[str, float] = {}
    for repeat in range(repeats + 1):
        for way in ways:
            model.zero_grad(set_to_none=True)
            before = time.process_time()
            loss = WAYS[way](model, step)
            loss.backward()
            if repeat:
                seconds[way].append(time.process_time() - before)
            losses[way] = loss.item()
            del loss
    medians = {way: statistics.median(seconds[way]) for way in ways}
    ratios = {way: median / medians[ways[-1]] for way, median in medians.items()}
    print(f"{positives} positives x {NEGATIVES} negatives, median of {repeats}, one thread")
    for way, ratio in ratios.items():
        print(f"  {way:9} {medians[way]:8.3f} s  {ratio:6.1f} x  loss {losses[way]:.7f}")
    gap = max(losses.values()) - min(losses.values())
    if gap > 1e-5:
        raise SystemExit(f"the losses differ by {gap:.2e}: the comparison is void")
    return ratios


def peak_gb() -> float:
    """Return the most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--positives", type=int, nargs="+", default=list(POSITIVES))
    parser.add_argument("--only", choices=WAYS)
    arguments = parser.parse_args()
    ways = [arguments.only] if arguments.only else list(WAYS)
    for positives in arguments.positives:
        measure(positives, repeats=arguments.repeats, ways=ways)
    print(f"peak memory of the process {peak_gb():.2f} GB")


def _inner_products(users_BG: Tensor, items_PG: Tensor, at_BC: Tensor) -> Tensor:
    picked = spread(items_PG, at_BC.flatten()).view(*at_BC.shape, -1)
    return torch.bmm(picked, users_BG[:, :, None])[:, :, 0]


def _user_rows(users: UserBatch, rows: Tensor) -> UserBatch:
    return UserBatch(
        categorical_BF=users.categorical_BF[rows],
        dense_BF=users.dense_BF[rows],
        bags=(),
        history=_packed_rows(users.history, rows),
        spec_history=_packed_rows(users.spec_history, rows),
        shown=_packed_rows(users.shown, rows),
        scenario_B=users.scenario_B[rows],
    )


def _item_rows(items: ItemBatch, rows: Tensor) -> ItemBatch:
    return ItemBatch(
        rows_B=items.rows_B[rows],
        categorical_BF=items.categorical_BF[rows],
        dense_BF=items.dense_BF[rows],
        bags=tuple(_packed_rows(bag, rows) for bag in items.bags),
    )


def _packed_rows(packed: Packed, rows: Tensor) -> Packed:
    offsets = packed.offsets_B1.numpy()
    index = np.asarray(rows)
    return pack(packed.values_V, offsets[:-1][index], offsets[1:][index])


if __name__ == "__main__":
    main()
