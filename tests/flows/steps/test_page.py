"""Pages: safe, self-contained HTML, and how they look in a real browser."""

import io
import re
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from bentos.runtime.monitoring import drift, sketches
from flows.steps.monitoring import kinds
from flows.steps.monitoring.segments import Segment
from flows.steps.pages import page
from flows.steps.pages import report as drift_report
from flows.usecases.spec import DriftRules
from tests import browser
from tests.flows.steps.test_plots import POINTS

matplotlib.use("Agg")


def png(width: float = 4, height: float = 2.5) -> bytes:
    """A small bar chart."""
    from matplotlib.figure import Figure

    figure, out = Figure(figsize=(width, height)), io.BytesIO()
    figure.subplots().bar(["a", "b"], [1, 2])
    figure.savefig(out, format="png")
    return out.getvalue()


def everything() -> page.Page:
    """A page with every block, long words and a wide table."""
    events = (
        page.Event("09:00", "Snapshot", "12 rows quarantined.", "good"),
        page.Event("09:10", "Released"),
        page.Event("2026-11-22 10:30", "Drift", "recency", "bad"),
    )
    wide = page.Table(
        tuple(f"Header {i}" for i in range(12)),
        tuple(("row", *(1000.5 * i for i in range(11))) for _ in range(3)),
        "A wide table",
    )
    return page.Page(
        "A title",
        "A subtitle",
        (
            page.Section("Story", "story", (page.Timeline(events), page.Text("One.\n\nTwo."), page.Code("x" * 200))),
            page.Section("Numbers", "numbers", (wide, page.Facts((("A" * 60, "b" * 90), ("Rows", 12345))))),
            page.Section(
                "Pictures",
                "pictures",
                (
                    page.Figure(png(20, 3), "A wide chart", "Caption"),
                    page.Gallery((page.Figure(png(), "One"), page.Figure(png(), "Two"))),
                ),
            ),
            page.Section("Further", "further", (page.Links((("Up", "#story"), ("Web", "https://example.org"))),)),
        ),
        lead=(page.Badge("Good", "good", "All is well."),),
        footer="The end.",
    )


def report(shift: float = 1.0, rows: int = 2000) -> tuple[drift.Verdict, page.Page]:
    """A drift report of three columns with a figure each."""
    rng = np.random.default_rng(0)

    def table(n: int, by: float) -> pd.DataFrame:
        return pd.DataFrame(
            {"recency": rng.normal(by, 1, n), "amount": rng.normal(size=n), "country": rng.choice(["GB", "FR"], n)}
        )

    then = sketches.reference(table(3000, 0))
    verdict = drift.compare(then, sketches.bin_counts(table(rows, shift), then), DriftRules())
    figures = {name: png() for name in (drift_report.OVERVIEW, "recency", "amount", "country")}
    context = {"use case": "churn", "release": "churn:v9", "next": "bentoflow train --use-case churn"}
    segment = Segment(name="age [0, 30)", rows=512, share=(0.25, 0.5), median=(0.3, 0.4), psi=0.321)
    judgement = kinds.judge(verdict, ())
    return verdict, drift_report.drift_page(verdict, judgement, figures, context, points=POINTS, segments=[segment])


def text(html: str) -> str:
    """What a reader reads, without tags and style."""
    body = re.sub(r"<[^>]+>", " ", html[html.index("<body>") :])
    return " ".join(body.split())


def test_everything_given_is_escaped() -> None:
    """No text of a page, wherever it stands, becomes markup."""
    bad = "<script>alert(1)</script>\"'&"
    html = page.render(
        page.Page(
            bad,
            bad,
            (
                page.Section(
                    bad,
                    "one",
                    (
                        page.Text(bad),
                        page.Code(bad),
                        page.Badge(bad, "bad", bad),
                        page.Facts(((bad, bad),)),
                        page.Table((bad,), ((bad,),), bad),
                        page.Figure(png(), bad, bad),
                        page.Timeline((page.Event(bad, bad, bad),)),
                        page.Links(((bad, "#one"),)),
                    ),
                ),
            ),
            footer=bad,
        )
    )
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 16


def test_a_page_names_no_other_address() -> None:
    """Nothing in a page but its links points anywhere else."""
    html = page.render(everything()).replace('href="https://example.org"', "")
    assert not re.findall(r"https?://", html)
    assert "default-src 'none'" in html


def test_numbers_are_formatted_and_aligned() -> None:
    """A column of numbers is aligned to the right, text to the left."""
    html = page.render(
        page.Page(
            "t",
            "",
            (
                page.Section(
                    "s", "s", (page.Table(("name", "rows", "share"), (("a", 12345, "3.1%"), ("b", 0.123456, "–"))),)
                ),
            ),
        )
    )
    assert '<td class="number">12,345</td>' in html
    assert '<td class="number">0.1235</td>' in html
    assert '<td class="number">3.1%</td>' in html
    assert '<th scope="row">a</th>' in html


@pytest.mark.parametrize("anchor", ["", "two words", "1st", "top", "same"])
def test_anchors_that_would_not_resolve_are_refused(anchor: str) -> None:
    """A malformed, reserved or repeated anchor is an error that names it."""
    sections = (page.Section("s", anchor, ()), page.Section("s", "same", ()))
    with pytest.raises(ValueError, match=f"anchor '{anchor}'"):
        page.render(page.Page("t", "", sections))


@pytest.mark.parametrize("address", ["javascript:alert(1)", " JavaScript:alert(1)", "data:text/html,x"])
def test_links_that_run_scripts_are_refused(address: str) -> None:
    """Escaping does not make such an address safe, so it is an error."""
    with pytest.raises(ValueError, match="neither web, mail"):
        page.render(page.Page("t", "", (page.Section("s", "s", (page.Links((("x", address),)),)),)))


def test_only_png_is_shown() -> None:
    """An image of another format is refused before a reader meets a broken one."""
    with pytest.raises(ValueError, match="not a PNG"):
        page.render(page.Page("t", "", (page.Section("s", "s", (page.Figure(b"GIF89a", "x"),)),)))


def test_the_drift_report_says_what_why_and_what_next() -> None:
    """Verdict, reason, every column and the next command are on the page, the moved column first."""
    verdict, made = report()
    shown = text(page.render(made))
    assert verdict.state == "drift"
    assert "Drift report: churn" in shown
    assert "1 of 3 columns drifted: recency" in shown
    assert "bentoflow train --use-case churn" in shown
    assert "churn:v9" in shown
    assert "age [0, 30) 512 25.0% 50.0% 0.300 0.400 0.321" in shown
    assert [section.anchor for section in made.sections] == [
        "compared",
        "quality",
        "course",
        "columns",
        "segments",
        "alarms",
        "next",
        "column-1",
        "stable",
    ]


def test_estimated_and_measured_quality_stand_side_by_side() -> None:
    """Each month has both with their intervals, and whether the one held the other; the blind spot is told."""
    shown = text(page.render(report()[1]))
    span = "0.800 (0.750 to 0.850)"
    for part in (f"1998-01 v1-aa {span} – 0.780 no labels yet", f"1998-02 v2-bb {span} {span} 0.800 within", "outside"):
        assert part in shown, part
    assert "Measured within the estimate&#39;s interval: 7 of 8 windows with labels." in shown
    assert kinds.BLIND in shown


@pytest.mark.parametrize(
    ("shift", "rows", "label", "sentence"),
    [
        (0.0, 2000, "No drift", "None of 3 columns moved beyond its limits."),
        (0.0, 20, "Not enough data", "The window has 20 rows, 500 are needed."),
    ],
)
def test_the_other_verdicts_are_said_as_plainly(shift: float, rows: int, label: str, sentence: str) -> None:
    """No drift and too few rows have their own badge and sentence."""
    shown = text(page.render(report(shift, rows)[1]))
    assert f"{label} {sentence}" in shown


def test_a_report_needs_no_figure() -> None:
    """Without figures and context the table alone remains, also when one drifted column is too few."""
    verdict, _ = report()
    few = replace(verdict, state="none", rules=replace(verdict.rules, min_drifted_columns=2))
    shown = text(page.render(drift_report.drift_page(few, kinds.judge(few, ()), {}, {})))
    assert "1 of 3 columns drifted, fewer than the 2 needed: recency." in shown


@pytest.mark.browser
@pytest.mark.parametrize("name", ["everything", "report"])
def test_pages_are_right_in_a_browser(name: str, tmp_path: Path) -> None:
    """Every block and the drift report load without error, show their images and fit a phone."""
    path = tmp_path / "page.html"
    path.write_text(page.render(everything() if name == "everything" else report()[1]), encoding="utf-8")
    browser.assert_page_ok(path)


@pytest.mark.browser
def test_the_browser_check_finds_what_is_wrong() -> None:
    """Each fault planted in a page is found and named."""
    planted = {
        "<img src='data:image/png;base64,AAAA' alt='x'>": "image not shown: x",
        "<img src='data:image/png;base64,AAAA'>": "image without alt text",
        "<p style='font-size:9px'>small</p>": "text smaller than 11 px: small",
        "<p style='width:900px'>wide</p>": "390 px: the page scrolls sideways: ",
        "<i id='a'>1</i><i id='a'>2</i>": "id used twice: a",
        "<a href='#gone'>x</a>": "link to a missing anchor: #gone",
        "<script>throw new Error('oops')</script>": "script error: oops",
        "<script>console.error('loud')</script>": "console: loud",
        "<script src='http://127.0.0.1:9/x.js'></script>": "request failed: http://127.0.0.1:9/x.js",
    }
    found = browser.findings(
        "<!doctype html><html><head><meta name='viewport' content='width=device-width'></head>"
        f"<body>{''.join(planted)}</body></html>"
    )
    for expected in (*planted.values(), "no language on <html>", "no title"):
        assert any(expected in problem for problem in found), expected


def test_without_a_browser_laptops_skip_and_ci_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The missing browser is named with what to install; only CI insists on it."""
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"):
        browser.chromium()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install chromium"):
        browser.chromium()
