"""The drift report: a verdict and its pictures as a page."""

from collections.abc import Mapping, Sequence

from bentos.runtime.monitoring.calibration import Calibration
from bentos.runtime.monitoring.drift import ColumnDrift, Verdict
from flows.steps.monitoring.course import Point
from flows.steps.monitoring.kinds import BLIND, Judgement
from flows.steps.monitoring.segments import Segment
from flows.steps.pages import quality_story
from flows.steps.pages.page import Badge, Block, Cell, Code, Facts, Figure, Gallery, Kind, Page, Section, Table, Text

OVERVIEW = "overview"  # name of the figure that shows all columns
KINDS: dict[str, tuple[str, Kind, str]] = {  # kind of drift: label, colour, what happens next
    "harmful": (
        "Harmful drift",
        "bad",
        "A training is asked for by an event, unless the last one was too recent to have new labels; "
        "the new model answers only if it passes every gate.",
    ),
    "data_bug": (
        "Broken data",
        "bad",
        "Somebody has to look: an alert is sent, and no training starts by itself until a later check finds the data "
        "mended. Every answer stays in the journal.",
    ),
    "benign": (
        "Benign drift",
        "info",
        "Nothing has to be done: quality holds. A use case may declare that benign drift in several windows in a row "
        "asks for a refresh.",
    ),
    "none": ("No drift", "good", "Nothing. The next window is checked on schedule."),
    "not_enough_data": ("Not enough data", "warn", "Nothing is decided on so few rows; check again with more."),
}
LEGEND = (
    "PSI, the population stability index, grows with the difference of the bins' shares; by chance is the PSI of "
    "two samples of one distribution: only the excess counts. KS is the largest distance of cumulative shares. "
    "Shift is the Wasserstein distance in standard deviations (sd) of the reference. "
    "Missing is a change in percentage points (pp), unseen the share of values new to the reference."
)


def drift_page(
    verdict: Verdict,
    judgement: Judgement,
    figures: Mapping[str, bytes],
    context: Mapping[str, str],
    known: Calibration | None = None,
    *,
    points: Sequence[Point] = (),
    segments: Sequence[Segment] = (),
) -> Page:
    """The drift report: `figures` are PNGs by column name, and `OVERVIEW` for all columns.

    `context` names what was compared; its `use case` goes into the title, `next` is the command to run now. `known` is
    the calibration that was kept with the release, if there was one; `points` the course of quality so far, `segments`
    the scores of each slice.
    """
    label, kind, after = KINDS[judgement.kind]
    facts = {key.replace("_", " "): str(value) for key, value in context.items()}
    use_case, command = facts.pop("use case", ""), facts.pop("next", "")
    alt = "Bars of every column's PSI against the limit"
    overview = (Figure(figures[OVERVIEW], alt),) if OVERVIEW in figures else ()
    rules = verdict.rules
    compared: tuple[tuple[str, Cell], ...] = (
        *((name.capitalize(), value) for name, value in facts.items()),
        ("Rows in the window", verdict.n),
        ("Rows needed", rules.min_rows),
        ("PSI limit", f"{rules.max_psi:g}"),
        ("KS limit", f"{rules.max_ks:g}"),
        ("Shift limit", f"{rules.max_shift:g} sd"),
        ("Missing limit", f"{100 * rules.max_missing_change:g} pp"),
        ("Unseen limit", f"{rules.max_unseen_share:.1%}"),
        ("Windows that must drift", f"{rules.persist} of the last {rules.persist_of}"),
    )
    return Page(
        title=f"Drift report: {use_case}" if use_case else "Drift report",
        subtitle=f"{verdict.n:,} rows, {len(verdict.columns)} columns against the reference of the release",
        lead=(Badge(label, kind, judgement.why),),
        sections=(
            Section("What was compared", "compared", (Facts(compared),)),
            Section("Quality", "quality", _quality(judgement, rules.max_quality_loss)),
            *([Section("Quality over time", "course", quality_story.blocks(points))] if points else []),
            Section("Columns", "columns", (Text(why(verdict)), *overview, _table(verdict), Text(LEGEND))),
            *([Section("Scores by segment", "segments", (_by_segment(segments),))] if segments else []),
            Section("False alarms", "alarms", _alarms(verdict, known)),
            Section("What happens next", "next", (Text(after), *([Code(command)] if command else []))),
            *_sections(verdict, figures),
        ),
    )


def _quality(judgement: Judgement, margin: float) -> tuple[Block, ...]:
    """What is known of quality in the window, and the signs of broken data."""
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (found.how, f"{found.value:.3f}", f"{found.low:.3f} to {found.high:.3f}", f"{found.promised:.3f}")
        for found in judgement.levels
    )
    said = (
        Table(("ROC AUC", "Value", "Interval", "Promised"), rows, "Harmful is a fall beyond interval and margin")
        if rows
        else Text("Nothing is known of quality: the release promised none, or the window has no score.")
    )
    signs: tuple[tuple[Cell, ...], ...] = tuple(
        (s.name, s.column or "whole rows", s.text) for s in judgement.signatures
    )
    found = (Table(("Sign of broken data", "Column", "Seen"), signs),) if signs else ()
    return (said, Text(f"The margin is {margin:.0%} of what was promised. {BLIND}"), *found)


def _by_segment(segments: Sequence[Segment]) -> Table:
    """Each segment's part of the answers and its scores, then and now; for information, no verdict rests on it."""
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (s.name, s.rows, *(f"{x:.1%}" for x in s.share), *(f"{x:.3f}" for x in s.median), f"{s.psi:.3f}")
        for s in segments
    )
    head = ("Segment", "Rows", "Share then", "Share now", "Median score then", "Median score now", "PSI of scores")
    return Table(head, rows, "Then: the release's reference. For information: no verdict rests on it")


def _alarms(verdict: Verdict, known: Calibration | None) -> tuple[Block, ...]:
    """How often a window without drift would have been called drifted, as replayed at training."""
    if known is None:
        return (Text("The release kept no calibration; chance was replayed for this window's size alone."),)
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (f"{size:,}", f"{rate:.1%}") for size, rate in zip(known.sizes, known.achieved, strict=True)
    )
    caption = f"{known.replays} windows without drift of each size, replayed from the reference"
    aim = f"At most {verdict.rules.false_alarms:.1%} of windows without drift may be called drifted."
    return (Text(aim), Table(("Rows", "Called drifted"), rows, caption))


def why(verdict: Verdict) -> str:
    """The verdict's reason in one sentence."""
    drifted = [column for column in _ranked(verdict) if column.drifted]
    if verdict.state == "not_enough_data":
        return _sentence(verdict.reasons[0])
    if not drifted:
        return f"None of {len(verdict.columns)} columns moved beyond its limits."
    few = f", fewer than the {verdict.rules.min_drifted_columns} needed" if verdict.state == "none" else ""
    rest = "".join(f", {column.name}" for column in drifted[1:4]) + (" and more" if len(drifted) > 4 else "")
    return (
        f"{len(drifted)} of {len(verdict.columns)} columns drifted{few}: {drifted[0].name}{rest}. "
        f"{drifted[0].name}: {drifted[0].reason}."
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _ranked(verdict: Verdict) -> list[ColumnDrift]:
    return sorted(verdict.columns, key=lambda column: (not column.drifted, column.psi_noise - column.psi))


def _table(verdict: Verdict) -> Table:
    rows = tuple(
        (
            c.name,
            Badge("drifted", "bad") if c.drifted else Badge("stable", "good"),
            f"{c.psi:.3f}",
            f"{c.psi_noise:.3f}",
            f"{c.ks:.3f}" if c.kind == "numeric" else "–",
            f"{c.shift:.2f} sd" if c.kind == "numeric" else "–",
            f"{100 * c.missing_change:+.1f} pp",
            f"{c.unseen_share:.1%}",
        )
        for c in _ranked(verdict)
    )
    return Table(
        ("Column", "Verdict", "PSI", "By chance", "KS", "Shift", "Missing", "Unseen"), rows, "Most moved first"
    )


def _sections(verdict: Verdict, figures: Mapping[str, bytes]) -> list[Section]:
    """A section for each drifted column, one gallery for the others."""
    shown = [column for column in _ranked(verdict) if column.drifted or column.name in figures]
    moved = [
        Section(
            column.name,
            f"column-{number}",
            (Text(_sentence(column.reason)), *([_figure(column, figures)] if column.name in figures else [])),
        )
        for number, column in enumerate(shown, 1)
        if column.drifted
    ]
    stable = tuple(_figure(column, figures) for column in shown if not column.drifted)
    title = "Columns that did not move" if moved else "Column by column"
    return [*moved, Section(title, "stable", (Gallery(stable),))] if stable else moved


def _figure(column: ColumnDrift, figures: Mapping[str, bytes]) -> Figure:
    alt = f"Shares of {column.name} in the bins of the reference and of the window"
    caption = "" if column.drifted else f"PSI {column.psi:.3f}; by chance {column.psi_noise:.3f}"
    return Figure(figures[column.name], alt, caption)
