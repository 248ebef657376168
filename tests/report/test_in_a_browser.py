"""The page in a real browser: whole, readable, fitting, and talking to nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

pytestmark = [pytest.mark.medium, pytest.mark.browser]

CHROMIUM = Path("/usr/bin/chromium")
COLD_DISK_MS = 180_000
"""The browser is a third of a GiB; Playwright's own limits are 30 s."""
SECTIONS = ["verdict", "recall", "training", "codes", "graphs", "preferences", "data", "lineage"]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM}; install Debian's package `chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=ARGUMENTS,
            timeout=COLD_DISK_MS,
        )
        yield browser
        browser.close()


@pytest.fixture(params=[(1280, "light"), (1280, "dark"), (390, "light")], ids=str)
def opened(browser: Browser, page: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page in a window, after checking that it said and asked for nothing while loading."""
    width, scheme = request.param
    window = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    window.set_default_timeout(COLD_DISK_MS)
    said: list[str] = []
    asked: list[str] = []
    window.on("console", lambda message: said.append(message.text))
    window.on("pageerror", lambda error: said.append(str(error)))
    window.on("request", lambda request: asked.append(request.url))
    window.goto(page.as_uri(), wait_until="load")
    yield window
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    window.close()


def test_the_page_is_whole_and_fits_the_window(opened: Page, tmp_path: Path):
    assert opened.get_by_role("heading", level=1).is_visible()
    assert opened.get_by_role("heading", level=1).bounding_box()["y"] < 400
    assert opened.eval_on_selector_all("main > section", "s => s.map(e => e.id)") == SECTIONS
    assert opened.evaluate("document.documentElement.scrollWidth") <= opened.viewport_size["width"]

    figures = opened.get_by_role("img")
    assert figures.count() >= 20
    for figure in figures.all():
        box = figure.bounding_box()
        assert box["width"] > 100
        assert box["height"] > 10
        assert len(figure.get_attribute("aria-label") or "") > 20

    links = opened.eval_on_selector_all("nav a", "a => a.map(e => e.getAttribute('href'))")
    assert links == [f"#{section}" for section in SECTIONS]
    picture = tmp_path / "page.png"
    opened.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 50_000


def test_text_stands_out_from_its_ground(opened: Page):
    """Contrast of at least 4.5 to 1 (WCAG AA) for every text of the page outside its drawings."""
    weak = opened.evaluate(CONTRAST)
    assert weak == []


CONTRAST = """() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0.99) return c;
    }
    return [255, 255, 255];
  };
  const weak = [];
  for (const e of document.querySelectorAll('body *:not(svg *)')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) weak.push(`${e.tagName} ${e.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return weak;
}"""
