"""From the page as data to HTML."""

from __future__ import annotations

from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from components.report.page import Page

_ENVIRONMENT: Final = Environment(
    loader=PackageLoader("components.report", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)


def render(page: Page) -> str:
    """Return the page as one HTML document that needs no other file."""
    style, *_ = _ENVIRONMENT.loader.get_source(_ENVIRONMENT, "style.css")  # type: ignore[union-attr]
    template = _ENVIRONMENT.get_template("page.html.j2")
    return template.render(page=page, style=Markup(style))  # noqa: S704 - our own file
