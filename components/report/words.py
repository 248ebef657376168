"""Numbers and dates as people read them: percent on the page, fractions in the files."""

from __future__ import annotations

import html
from datetime import date
from typing import Final

THIN: Final = "\N{NARROW NO-BREAK SPACE}"
DASH: Final = "\N{EN DASH}"
MINUS: Final = "\N{MINUS SIGN}"


def percent(share: float | None, *, digits: int = 1) -> str:
    """Return a share as percent, or a dash when there is none."""
    if share is None:
        return DASH
    if 0 < share < 0.5 * 10 ** -(digits + 2):
        return f"<{10**-digits:g}{THIN}%"
    return f"{share * 100:.{digits}f}{THIN}%"


def points(difference: float | None, *, digits: int = 2) -> str:
    """Return a difference of shares in percentage points with its sign, or a dash."""
    if difference is None:
        return DASH
    value = round(difference * 100, digits)
    sign = "+" if value > 0 else MINUS if value < 0 else "±"
    return f"{sign}{abs(value):.{digits}f}"


def between(low: float | None, high: float | None) -> str:
    """Return an interval of differences in percentage points."""
    return DASH if low is None or high is None else f"{points(low)} to {points(high)}"


def whole(number: int) -> str:
    """Return a whole number with its thousands set apart."""
    return f"{number:,}".replace(",", THIN)


def count(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun."""
    return f"{whole(number)} {one if number == 1 else many or one + 's'}"


def day(value: date) -> str:
    """Return a date as "5 May 2022"."""
    return f"{value.day} {value:%B %Y}"


def short_day(value: date) -> str:
    """Return a date as "5 May"."""
    return f"{value.day} {value:%b}"


def sentence(text: str) -> str:
    """Return a message as a sentence: with a capital and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def short(name: str, most: int) -> str:
    """Return a name cut to at most so many characters."""
    return name if len(name) <= most else name[: most - 1] + "…"


def cell_text(text: str) -> str:
    """Return what a user may have written as the text of a cell of a Markdown table."""
    return html.escape(text, quote=False).replace("|", r"\|")


def listed(names: list[str] | tuple[str, ...]) -> str:
    """Return names as a list in a sentence."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
