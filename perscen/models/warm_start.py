"""Starting a model from an earlier one whose vocabularies and scenarios may have changed."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from perscen.errors import ConfigError
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

    Rows of vocabularies and scenarios are matched by their value, not by their position. Rows that
    ``other`` did not know keep what ``model`` has there, so call :meth:`TwoTower.start_from` first.

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
    unfit = [
        name
        for name in sorted(new.keys() | old.keys())
        if not _fits(new.get(name), old.get(name), labelled=len(new_labels.get(name, ())))
    ]
    fields = list(_field_differences(model, other))
    if unfit or fields:
        settings = _setting_differences(other.config.model_dump(), model.config.model_dump())
        raise ConfigError(
            "the earlier model cannot start this one: "
            + "; ".join([*fields, *settings] or [f"the weights {', '.join(unfit)} differ"]),
            hint="train once with train.warm_start: false, or go back to the earlier settings",
        )
    for name, weight in new.items():
        if name in new_labels:
            _copy_labelled(weight, old[name], new_labels[name], old_labels[name])
        else:
            weight.copy_(old[name])


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
