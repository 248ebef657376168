"""Great Expectations: runs a contract's suite over a parsed frame and writes the Data Docs.

It is the second opinion. Its counts must equal those of the row predicates; an expectation that
raises, or counts otherwise, is a bug of ours and never a verdict on the data.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from data_contracts.compile import expectation_suite
from data_contracts.contract import TableContract
from data_contracts.parsing import stack

_ROWS_AT_ONCE: Final = 500_000


@dataclass(frozen=True)
class _Batch:
    """Rows that wait to be confirmed."""

    frame: pd.DataFrame
    name: str
    rule_counts: Counter[str]


class SecondOpinion:
    """One Great Expectations context; its pages go to ``data_docs``."""

    def __init__(self, data_docs: Path) -> None:
        self._context = _quiet_context(data_docs)
        self._definitions: dict[str, Any] = {}
        self._waiting: list[_Batch] = []

    def confirm_later(
        self,
        contract: TableContract,
        frame: pd.DataFrame,
        *,
        batch: str,
        rule_counts: Mapping[str, int],
    ) -> None:
        """As :meth:`confirm`, but together with the batches before it, once they are many rows.

        An expectation costs as much on one day as on ten. All waiting batches are of one contract.
        """
        self._waiting.append(_Batch(frame, batch, Counter(rule_counts)))
        if sum(len(waiting.frame) for waiting in self._waiting) >= _ROWS_AT_ONCE:
            self.confirm_waiting(contract)

    def confirm_waiting(self, contract: TableContract) -> None:
        """Confirm the batches that wait."""
        if not self._waiting:
            return
        first, last = self._waiting[0].name, self._waiting[-1].name
        counts: Counter[str] = Counter()
        for waiting in self._waiting:
            counts.update(waiting.rule_counts)
        frame = stack([waiting.frame for waiting in self._waiting])
        self._waiting = []
        name = first if first == last else f"{first} to {last}"
        self.confirm(contract, frame, batch=name, rule_counts=counts)

    def confirm(
        self,
        contract: TableContract,
        frame: pd.DataFrame,
        *,
        batch: str,
        rule_counts: Mapping[str, int],
    ) -> None:
        """Run the contract's suite over a parsed frame and compare its counts with the predicates'.

        Args:
            contract: Whose rules.
            frame: Parsed rows without exact duplicates.
            batch: What the rows are (a day), the run's name in the Data Docs.
            rule_counts: Broken rows per rule, as the predicates count them.

        Raises:
            RuntimeError: An expectation raised, or counts other rows than its predicate: our bug.
        """
        counts = self.counts(contract, frame, batch=batch)
        differing = {
            name: (counts.get(name), count)
            for name, count in rule_counts.items()
            if counts.get(name) != count
        }
        if differing:
            raise RuntimeError(
                f"Great Expectations and the row predicates of {contract.contract!r} disagree on "
                f"{batch} (rule: expectation, predicate): {differing}"
            )

    def counts(self, contract: TableContract, frame: pd.DataFrame, *, batch: str) -> dict[str, int]:
        """Return the rows that break each rule, as Great Expectations counts them.

        Raises:
            RuntimeError: An expectation raised.
        """
        import great_expectations as gx

        with _quiet():
            outcome = self._definition(contract).run(
                batch_parameters={"dataframe": frame},
                run_id=gx.RunIdentifier(run_name=batch),
                result_format={"result_format": "BASIC", "partial_unexpected_count": 5},
            )
        counts: dict[str, int] = {}
        for result in outcome.results:
            rule = result.expectation_config.meta["rule"]
            if trouble := _trouble(result.exception_info):
                raise RuntimeError(
                    f"rule {rule!r} of {contract.contract!r} raised on {batch}: {trouble}"
                )
            counts[rule] = int(result.result.get("unexpected_count", 0))
        return counts

    def write_docs(self) -> None:
        """Write the Data Docs of every run so far as HTML."""
        with _quiet():
            self._context.build_data_docs()

    def _definition(self, contract: TableContract) -> Any:
        import great_expectations as gx

        name = f"{contract.contract}.{contract.name}"
        if name not in self._definitions:
            asset = self._context.data_sources.add_pandas(name).add_dataframe_asset(contract.name)
            definition = gx.ValidationDefinition(
                name=name,
                data=asset.add_batch_definition_whole_dataframe("all rows"),
                suite=self._context.suites.add(expectation_suite(contract)),
            )
            self._definitions[name] = self._context.validation_definitions.add(definition)
        return self._definitions[name]


def _quiet_context(data_docs: Path) -> Any:
    """Return a context that keeps all in memory but the pages, shows no bars and calls nobody."""
    with _quiet():
        import great_expectations as gx
        from great_expectations.data_context.types.base import (
            DataContextConfig,
            InMemoryStoreBackendDefaults,
            ProgressBarsConfig,
        )

        site = {
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "store_backend": {
                "class_name": "TupleFilesystemStoreBackend",
                "base_directory": str(data_docs.resolve()),
            },
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        }
        config = DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            data_docs_sites={"contracts": site},
            analytics_enabled=False,
            progress_bars=ProgressBarsConfig(globally=False),
        )
        return gx.get_context(project_config=config, mode="ephemeral")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the engine's own warnings and messages to itself."""
    log = logging.getLogger("great_expectations")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _trouble(info: Any) -> str:
    """Return the message of an exception in a result, which holds one per metric or just one."""
    if not info:
        return ""
    if "raised_exception" in info:
        return str(info["exception_message"]) if info["raised_exception"] else ""
    return "; ".join(message for part in info.values() if (message := _trouble(part)))
