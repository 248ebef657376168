"""Starting a model from an earlier one whose vocabularies and scenarios may have changed."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from perscen.errors import ConfigError
from perscen.models.item_attributes import ItemAttributes
from perscen.models.per_scenario import PerScenario
from perscen.models.popularity import PopularityPrior
from perscen.models.two_tower import TwoTower

Vocabularies = Mapping[str, Sequence[str]]


@torch.no_grad()
def warm_start_from(
    model: TwoTower,
    other: TwoTower,
    *,
    old_vocabularies: Vocabularies,
    new_vocabularies: Vocabularies,
) -> None:
    """Copy the weights of ``other`` into ``model``; nothing is copied when anything does not fit.

    Rows of vocabularies and scenarios are matched by their value, not by their position; so are the
    parts that belong to one scenario each. What ``other`` did not know keeps what ``model`` has
    there, so call :meth:`TwoTower.start_from` first.

    Args:
        model: The model to start.
        other: The earlier model.
        old_vocabularies: Values per field, as in :class:`Splits`, that ``other`` was trained with.
        new_vocabularies: Those of ``model``.

    Raises:
        ConfigError: The two differ in fields, or in settings that shape the weights; every
            difference is named.
    """
    new_labels = model.axis_labels(new_vocabularies)
    old_labels = other.axis_labels(old_vocabularies)
    new, old = model.state_dict(), other.state_dict()
    new_name, old_name = _names_by_scenario(model), _names_by_scenario(other)
    both = {*model.schema.scenarios} & {*other.schema.scenarios}
    shared = {key for key in new_name.keys() | old_name.keys() if key.scenario in {None, *both}}
    unfit = [
        new_name.get(key) or old_name[key]
        for key in sorted(shared, key=str)
        if not _fits(
            new.get(new_name.get(key, "")),
            old.get(old_name.get(key, "")),
            labelled=len(new_labels.get(new_name.get(key, ""), ())),
        )
    ]
    fields = list(_field_differences(model, other))
    if unfit or fields:
        settings = _setting_differences(other.config.model_dump(), model.config.model_dump())
        raise ConfigError(
            "the earlier model cannot start this one: "
            + "; ".join([*fields, *settings] or [f"the weights {', '.join(unfit)} differ"]),
            hint="train once with train.warm_start: false, or go back to the earlier settings",
        )
    for key in shared:
        to, origin = new_name[key], old_name[key]
        if to in new_labels:
            _copy_labelled(new[to], old[origin], new_labels[to], old_labels[origin])
        else:
            new[to].copy_(old[origin])


class _Key(NamedTuple):
    """What a weight is called in any model of its kind, and the scenario that owns it, if any."""

    name: str
    scenario: str | None


def _names_by_scenario(model: TwoTower) -> dict[_Key, str]:
    """Return each weight's name in ``state_dict``, whatever the position of its scenario."""
    parts = [
        f"{path}.{number}."
        for path, module in model.named_modules()
        if isinstance(module, PerScenario)
        for number in range(len(module))
    ]
    facts = [
        path
        for path, module in model.named_modules()
        if isinstance(module, ItemAttributes | PopularityPrior)
    ]
    names = {}
    for name in model.state_dict():
        if name.rpartition(".")[0] in facts:
            continue  # what today's data say is not for an earlier model to overrule
        part = next((part for part in parts if name.startswith(part)), None)
        if part is None:
            names[_Key(name, None)] = name
        else:
            path, number = part[:-1].rsplit(".", 1)
            owner = model.schema.scenarios[int(number)]
            names[_Key(f"{path}.{name.removeprefix(part)}", owner)] = name
    return names


def _fits(new: Tensor | None, old: Tensor | None, *, labelled: int) -> bool:
    """Return whether both exist and agree on the axes that carry no labels."""
    if new is None or old is None or new.dim() != old.dim():
        return False
    return new.shape[labelled:] == old.shape[labelled:]


def _field_differences(model: TwoTower, other: TwoTower) -> Iterator[str]:
    for tower in ("user", "item"):
        new, old = getattr(model.schema, tower), getattr(other.schema, tower)
        for kind in ("categorical", "dense", "bags", "sequence"):
            before, after = _names(getattr(old, kind)), _names(getattr(new, kind))
            if before != after:
                yield f"{tower} {kind} fields were {before} and are {after}"


def _names(fields: Any) -> Any:
    return [getattr(f, "name", f) for f in fields] if isinstance(fields, tuple) else fields


def _setting_differences(old: Any, new: Any, path: str = "model") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _setting_differences(old.get(key), new.get(key), f"{path}.{key}")
    elif old != new:
        yield f"{path} was {old!r} and is {new!r}"


def _copy_labelled(
    new: Tensor,
    old: Tensor,
    new_labels: tuple[Sequence[Hashable], ...],
    old_labels: tuple[Sequence[Hashable], ...],
) -> None:
    """Copy the entries whose labels both know, on every labelled axis."""
    to, origin = [], []
    for axis, (mine, theirs) in enumerate(zip(new_labels, old_labels, strict=True)):
        known = {label: position for position, label in enumerate(theirs)}
        pairs = [(at, known[label]) for at, label in enumerate(mine) if label in known]
        shape = [-1] + [1] * (len(new_labels) - axis - 1)
        index = torch.tensor(pairs, dtype=torch.int64, device=new.device).reshape(-1, 2)
        to.append(index[:, 0].view(shape))
        origin.append(index[:, 1].view(shape))
    new[tuple(to)] = old.to(new)[tuple(origin)]
