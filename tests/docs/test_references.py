"""What the documentation points to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
CODE = re.compile(
    r"`((?:perscen|components|data_contracts|bench|tests)/[\w/]+\.(?:py|yaml|j2))(?::([\w.]+))?"
)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    targets = [t for t in LINK.findall(page.read_text()) if "://" not in t]
    assert [t for t in targets if not (page.parent / t).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_and_functions_named_in_the_text_exist(page):
    missing = []
    for file, symbol in CODE.findall(page.read_text()):
        path = ROOT / file
        if not path.exists():
            missing.append(file)
        elif symbol and not re.search(
            rf"(?:def|class) {symbol.split('.')[-1]}\b|^ *{symbol.split('.')[-1]}\b.*=",
            path.read_text(),
            re.MULTILINE,
        ):
            missing.append(f"{file}:{symbol}")
    assert missing == []


def test_every_equation_points_to_code_that_exists():
    text = (ROOT / "docs/model/equations.md").read_text()
    references = re.findall(r"`(\w+\.py): ([\w.]+)`", text)
    missing = [
        f"{file}: {symbol}"
        for file, symbol in references
        if not re.search(
            rf"(?:def|class) {symbol.split('.')[-1]}\b|{symbol.split('.')[-1]}\b.*=",
            (ROOT / "perscen/models" / file).read_text(),
        )
    ]
    assert len(references) >= 10
    assert missing == []
