"""From the clean log to leak-free splits: scenarios, windows, kept users, histories.

Letters: N events, E training rows, Q queries, R user rows, S scenarios.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from perscen.config import SplitConfig
from perscen.data.features import check_features, fit_tower, with_ids
from perscen.data.fields import FieldPlan
from perscen.data.interactions import Interactions
from perscen.data.scenarios import choose_scenarios
from perscen.data.sequences import (
    Events,
    build_histories,
    offsets_of,
    order_by,
    reorder,
    slices_before,
)
from perscen.data.splits import (
    Histories,
    Impressions,
    Ints,
    Queries,
    Rows,
    Slices,
    Splits,
)
from perscen.data.vocabulary import text_of
from perscen.data.windows import Windows
from perscen.errors import ArtifactError, ConfigError
from perscen.schema import FIRST_ROW, Schema

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Sizes:
    num_users: int
    num_items: int
    num_scenarios: int


def split_log(
    log: Interactions,
    *,
    users: pa.Table,
    items: pa.Table,
    plan: FieldPlan,
    windows: Windows,
    config: SplitConfig,
) -> Splits:
    """Return the splits of a log.

    Every user of the user table has a row, in the table's order, and so has every user of the log
    without features, after them. Items are the whole catalogue, in the table's order.

    Args:
        log: Impressions within the windows.
        users: Feature table; first column ``user_id``.
        items: Catalogue; first column ``item_id``.
        plan: Which columns feed which field.
        windows: Training, validation and test days.
        config: Scenarios, kept users and histories.

    Raises:
        ConfigError: The scenarios asked for are not there.
        ArtifactError: A window has no impressions, a scenario no clicks in a window, an item is
            not in the catalogue, or a feature table lacks a column.
    """
    check_features(users, plan.user, tower="user")
    check_features(items, plan.item, tower="item")
    _check_windows_hold_rows(log, windows)
    scenarios = choose_scenarios(log, windows=windows, config=config)
    users = with_ids(users, _ids_without_features(log, users), tower="user")
    items = with_ids(items, [], tower="item")
    sizes = _Sizes(len(users) + FIRST_ROW, len(items) + FIRST_ROW, len(scenarios))
    events = _events(log, users=users, items=items, scenarios=scenarios)
    train_end_ms = windows.span_ms("train")[1]
    impressions = _impressions(events.at(events.time_ms < train_end_ms), sizes)
    if config.min_interactions_scope == "all":
        events = _of_active_users(events, config.min_interactions, sizes)
    histories = build_histories(
        events, num_users=sizes.num_users, num_scenarios=sizes.num_scenarios
    )
    train, train_slices = _training_rows(events, train_end_ms, histories, sizes, config)
    valid = _queries(events, windows.span_ms("valid"), users, sizes)
    test = _queries(events, windows.span_ms("test"), users, sizes)
    _check_every_scenario_is_judged(valid, test, scenarios, windows)

    trained_R = np.zeros(len(users), dtype=np.bool_)
    trained_R[train.user - FIRST_ROW] = True
    user = fit_tower(users, plan.user, tower="user", trained=trained_R)
    item = fit_tower(items, plan.item, tower="item", trained=np.ones(len(items), dtype=np.bool_))
    ever_ms = windows.span_ms("test")[1]
    return Splits(
        schema=Schema(
            user=user.schema,
            item=item.schema,
            scenarios=tuple(scenarios),
            num_item_rows=sizes.num_items,
            max_seq_len=config.max_seq_len,
            spec_seq_source=config.spec_seq_source,
        ),
        users=user.table,
        items=item.table,
        histories=histories,
        train=train,
        train_slices=train_slices,
        valid=valid,
        valid_slices=_frozen(histories, valid.user, valid.scenario, train_end_ms, config),
        test=test,
        test_slices=_frozen(
            histories, test.user, test.scenario, _test_history_end_ms(windows, config), config
        ),
        served=_frozen(
            histories,
            np.repeat(np.arange(sizes.num_users, dtype=np.int32), sizes.num_scenarios),
            np.tile(np.arange(sizes.num_scenarios, dtype=np.int32), sizes.num_users),
            ever_ms,
            config,
        ),
        impressions=impressions,
        vocabularies={
            **user.vocabularies,
            **item.vocabularies,
            "users": user.table.ids[FIRST_ROW:].tolist(),
            "items": item.table.ids[FIRST_ROW:].tolist(),
        },
        scalers={**user.scalers, **item.scalers},
    )


def _check_windows_hold_rows(log: Interactions, windows: Windows) -> None:
    for name, window in windows.items():
        first, end = windows.span_ms(name)
        if not ((log.time_ms >= first) & (log.time_ms < end)).any():
            raise ArtifactError(
                f"the {name} window, {window.first} to {window.last}, holds no impression",
                hint="see the excluded days in the clean log's report.json, or move the windows",
            )


def _ids_without_features(log: Interactions, users: pa.Table) -> list[str]:
    lacking = pc.is_null(pc.index_in(log.user_ids, value_set=text_of(users["user_id"])))
    ids: list[str] = sorted(log.user_ids.filter(lacking).to_pylist())
    if ids:
        logger.info("users without features are kept", extra={"num_users": len(ids)})
    return ids


def _events(log: Interactions, *, users: pa.Table, items: pa.Table, scenarios: list[str]) -> Events:
    """Return the impressions of the kept scenarios in table rows, sorted."""
    scenario_of_code = pc.index_in(log.scenarios, value_set=pa.array(scenarios, pa.string()))
    scenario_of_code = pc.fill_null(scenario_of_code, -1).to_numpy()
    kept_N = scenario_of_code[log.scenario] >= 0
    user_of_code = _table_rows(log.user_ids, text_of(users["user_id"]))
    item_of_code = _table_rows(log.item_ids, text_of(items["item_id"]))
    item_N = item_of_code[log.item[kept_N]]
    if strangers := int((item_N < FIRST_ROW).sum()):
        raise ArtifactError(
            f"{strangers:,} of {len(item_N):,} impressions show an item missing from the catalogue",
            hint="run `validate` again: such rows belong in quarantine",
        )
    return Events(
        user=user_of_code[log.user[kept_N]],
        item=item_N,
        scenario=scenario_of_code[log.scenario[kept_N]],
        time_ms=log.time_ms[kept_N],
        clicked=log.clicked[kept_N],
    ).sorted()


def _table_rows(ids: pa.Array, table_ids: pa.Array) -> Ints:
    rows = pc.fill_null(pc.index_in(ids, value_set=table_ids), -FIRST_ROW).to_numpy() + FIRST_ROW
    return np.asarray(rows, dtype=np.int32)


def _of_active_users(events: Events, min_interactions: int, sizes: _Sizes) -> Events:
    """Return the impressions that are not clicks of users with too few clicks over all windows."""
    clicks_R = np.bincount(events.user[events.clicked], minlength=sizes.num_users)
    return events.at(~events.clicked | (clicks_R[events.user] >= min_interactions))


def _training_rows(
    events: Events, end_ms: int, histories: Histories, sizes: _Sizes, config: SplitConfig
) -> tuple[Rows, Slices]:
    clicks = events.at(events.clicked & (events.time_ms < end_ms))
    if config.min_interactions_scope == "train":
        clicks_R = np.bincount(clicks.user, minlength=sizes.num_users)
        clicks = clicks.at(clicks_R[clicks.user] >= config.min_interactions)
    if len(clicks.user) == 0:
        raise ConfigError(
            f"no user has {config.min_interactions} clicks (split.min_interactions) in the "
            "training window, so there is nothing to train on",
            hint="lower split.min_interactions, or lengthen the training window",
        )
    # Cut in order of (user, time), where the binary searches walk forward, and only then reorder.
    slices = slices_before(
        histories,
        clicks.user,
        clicks.scenario,
        clicks.time_ms,
        max_seq_len=config.max_seq_len,
        spec_seq_source=config.spec_seq_source,
    )
    order_E = order_by(clicks.time_ms)
    reorder(slices, order_E)
    clicks = clicks.at(order_E)
    return Rows(clicks.user, clicks.item, clicks.scenario, clicks.time_ms), slices


def _queries(events: Events, span_ms: tuple[int, int], users: pa.Table, sizes: _Sizes) -> Queries:
    first, end = span_ms
    clicks = events.at(events.clicked & (events.time_ms >= first) & (events.time_ms < end))
    query_N = clicks.user.astype(np.int64) * sizes.num_scenarios + clicks.scenario
    key = np.unique(query_N * sizes.num_items + clicks.item)
    query, num_relevant = np.unique(key // sizes.num_items, return_counts=True)
    user = (query // sizes.num_scenarios).astype(np.int32)
    ids = text_of(users["user_id"]).take(pa.array(user - FIRST_ROW))
    return Queries(
        user=user,
        scenario=(query % sizes.num_scenarios).astype(np.int32),
        user_id=np.array(ids.to_pylist(), dtype=np.str_),
        relevant_offsets=np.concatenate([[0], np.cumsum(num_relevant)]).astype(np.int64),
        relevant=(key % sizes.num_items).astype(np.int32),
    )


def _check_every_scenario_is_judged(
    valid: Queries, test: Queries, scenarios: list[str], windows: Windows
) -> None:
    for name, window, queries in (("valid", windows.valid, valid), ("test", windows.test, test)):
        users_S = np.bincount(queries.scenario, minlength=len(scenarios))
        if empty := [s for s, n in zip(scenarios, users_S, strict=True) if not n]:
            raise ArtifactError(
                f"no user clicks in scenario {', '.join(empty)} in the {name} window, "
                f"{window.first} to {window.last}, so it cannot be judged there",
                hint=f"lengthen the {name} window, or leave the scenario out with split.scenarios",
            )


def _test_history_end_ms(windows: Windows, config: SplitConfig) -> int:
    """Return when test histories end; at the test window's start they hold validation clicks."""
    if config.eval_history == "train_only":
        return windows.span_ms("train")[1]
    return windows.span_ms("test")[0]


def _frozen(
    histories: Histories, user_Q: Ints, scenario_Q: Ints, time_ms: int, config: SplitConfig
) -> Slices:
    """Return every query's histories as they stood at one moment."""
    return slices_before(
        histories,
        user_Q,
        scenario_Q,
        np.full(len(user_Q), time_ms, dtype=np.int64),
        max_seq_len=config.max_seq_len,
        spec_seq_source=config.spec_seq_source,
    )


def _impressions(seen: Events, sizes: _Sizes) -> Impressions:
    return Impressions(
        user=seen.user,
        item=seen.item,
        scenario=seen.scenario,
        clicked=seen.clicked,
        time_ms=seen.time_ms,
        user_offsets=offsets_of(seen.user, sizes.num_users),
    )
