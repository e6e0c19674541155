"""Headless Chromium for tests, and the checks that every page of ours must pass."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1200, "height": 900}
SMALLEST_TEXT = 11.0  # CSS pixels
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

FINDINGS = """(smallest) => {
  const all = [...document.querySelectorAll('*')];
  const ids = all.map(e => e.id).filter(Boolean);
  const visible = e => { const s = getComputedStyle(e); return s.display !== 'none' && s.visibility !== 'hidden'; };
  const texts = all.filter(e => visible(e) && e.getClientRects().length
    && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()));
  return [
    ...[...document.images].filter(i => !i.naturalWidth).map(i => `image not shown: ${i.alt}`),
    ...[...document.images].filter(i => !i.alt.trim()).map(i => 'image without alt text'),
    ...ids.filter((id, i) => ids.indexOf(id) !== i).map(id => `id used twice: ${id}`),
    ...[...document.querySelectorAll('a[href^="#"]')].map(a => decodeURIComponent(a.hash.slice(1)))
      .filter(id => !document.getElementById(id)).map(id => `link to a missing anchor: #${id}`),
    ...texts.filter(e => parseFloat(getComputedStyle(e).fontSize) < smallest)
      .map(e => `text smaller than ${smallest} px: ${e.textContent.trim().slice(0, 40)}`),
    ...(document.documentElement.lang ? [] : ['no language on <html>']),
    ...(document.title.trim() ? [] : ['no title']),
  ];
}"""
WIDE = "() => document.scrollingElement.scrollWidth"


def chromium() -> str:
    """Path of the browser: $CHROMIUM or the one installed. Without one, skip on a laptop and fail where CI is set."""
    found = (
        os.environ.get("CHROMIUM")
        or shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if found:
        return found
    message = "no Chromium: install it (Debian: `apt-get install chromium`) or set CHROMIUM to its path"
    return pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)


@contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium (a playwright Browser), closed at the end."""
    from playwright.sync_api import sync_playwright

    path = chromium()
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield running
        finally:
            running.close()


def findings(page: str | Path) -> list[str]:
    """Everything wrong with a page, given as HTML, URL or file, on a phone and on a desktop; [] for a good page."""
    with browser() as running:
        return [
            f"{viewport['width']} px: {problem}"
            for viewport in (PHONE, DESKTOP)
            for problem in _look(running, page, viewport)
        ]


def assert_page_ok(page: str | Path) -> None:
    """The page (HTML, URL or file) loads without error or failed request, shows its images, and fits a phone."""
    problems = findings(page)
    assert not problems, "the page has problems:\n" + "\n".join(problems)


def screenshot(page: str | Path, to: Path, *, width: int = 1200, dark: bool = False) -> None:
    """The whole page as a PNG file, as wide as the viewport."""
    with browser() as running:
        context = running.new_context(
            viewport={"width": width, "height": 844}, color_scheme="dark" if dark else "light"
        )
        tab = context.new_page()
        _open(tab, page)
        tab.screenshot(path=str(to), full_page=True)
        context.close()


def _open(tab: Any, page: str | Path) -> None:
    if isinstance(page, Path):
        tab.goto(page.resolve().as_uri(), wait_until="load")
    elif page.startswith(("http://", "https://", "file://")):
        tab.goto(page, wait_until="load")
    else:
        tab.set_content(page, wait_until="load")


def _look(running: Any, page: str | Path, viewport: dict[str, int]) -> list[str]:
    problems: list[str] = []
    context = running.new_context(viewport=viewport)
    tab = context.new_page()
    tab.on("console", lambda m: problems.append(f"console: {m.text}") if m.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: problems.append(f"script error: {error}"))
    tab.on("requestfailed", lambda request: problems.append(f"request failed: {request.url[:80]}"))
    tab.on("response", lambda r: problems.append(f"{r.status} for {r.url[:80]}") if r.status >= 400 else None)
    _open(tab, page)
    problems += tab.evaluate(FINDINGS, SMALLEST_TEXT)
    wide = tab.evaluate(WIDE)
    if wide > viewport["width"]:
        problems.append(f"the page scrolls sideways: {wide} px wide")
    context.close()
    return problems
