"""The page as data: plain texts and finished figures; the template has nothing to decide."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class Figure:
    """A finished drawing and the sentence below it.

    Attributes:
        svg: An ``<svg>`` element with an accessible name.
        caption: What to see in it; empty when a neighbour's caption speaks for it.
    """

    svg: Markup
    caption: str = ""


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        note: A smaller second line.
        tone: "good", "bad", "warn", "quiet" or empty; said in words by ``text`` too.
        title: What a pointer resting on it shows.
        code: Whether the text is an identifier.
    """

    text: str
    note: str = ""
    tone: str = ""
    title: str = ""
    code: bool = False


@dataclass(frozen=True)
class Column:
    """A table's column; numbers are set to the right."""

    name: str
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes:
        anchor: Its address within the page.
        missing: Why there is nothing to show; empty when there is.
    """

    anchor: str
    title: str
    paragraphs: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    missing: str = ""


@dataclass(frozen=True)
class IntervalBar:
    """A difference and its interval against the margin: positions in percent of the bar's width."""

    zero: float
    margin: float | None
    low: float
    high: float
    point: float
    tone: str
    label: str


@dataclass(frozen=True)
class ScenarioRow:
    """One scenario of the verdict."""

    scenario: str
    users: str
    candidate: str
    champion: str
    popularity: str
    versus: str
    difference: str
    interval: str
    bar: IntervalBar | None
    outcome: str
    tone: str
    policy: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """One number of the headline."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class VerdictView:
    """The first screen."""

    decision: str
    tone: str
    headline: str
    why: tuple[str, ...]
    facts: tuple[Fact, ...]
    metric: str
    rows: tuple[ScenarioRow, ...]
    findings: Table


@dataclass(frozen=True)
class Page:
    """Everything on the page."""

    title: str
    day: str
    verdict: VerdictView
    sections: tuple[Section, ...]
