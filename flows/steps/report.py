"""The drift report: a verdict and its pictures as a page."""

from collections.abc import Mapping

from flows.steps.drift import ColumnDrift, Verdict
from flows.steps.page import Badge, Cell, Code, Facts, Figure, Gallery, Kind, Page, Section, Table, Text

OVERVIEW = "overview"  # name of the figure that shows all columns
STATES: dict[str, tuple[str, Kind, str]] = {  # label, kind, what happens next
    "drift": (
        "Drift",
        "bad",
        "A training is asked for by an event, unless the last one was too recent to have new labels; "
        "the new model answers only if it passes every gate.",
    ),
    "none": ("No drift", "good", "Nothing. The next window is checked on schedule."),
    "not_enough_data": ("Not enough data", "warn", "Nothing is decided on so few rows; check again with more."),
}
LEGEND = (
    "PSI, the population stability index, grows with the difference of the bins' shares; by chance is the PSI of "
    "two samples of one distribution: only the excess counts. KS is the largest distance of cumulative shares. "
    "Missing is a change in percentage points (pp), unseen the share of values new to the reference."
)


def drift_page(verdict: Verdict, figures: Mapping[str, bytes], context: Mapping[str, str]) -> Page:
    """The drift report: `figures` are PNGs by column name, and `OVERVIEW` for all columns.

    `context` names what was compared; its `use case` goes into the title, `next` is the command to run now.
    """
    label, kind, after = STATES[verdict.state]
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
        ("Missing limit", f"{100 * rules.max_missing_change:g} pp"),
        ("Unseen limit", f"{rules.max_unseen_share:.1%}"),
    )
    return Page(
        title=f"Drift report: {use_case}" if use_case else "Drift report",
        subtitle=f"{verdict.n:,} rows, {len(verdict.columns)} columns against the reference of the release",
        lead=(Badge(label, kind, why(verdict)),),
        sections=(
            Section("What was compared", "compared", (Facts(compared),)),
            Section("Columns", "columns", (*overview, _table(verdict), Text(LEGEND))),
            Section("What happens next", "next", (Text(after), *([Code(command)] if command else []))),
            *_sections(verdict, figures),
        ),
    )


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
            f"{100 * c.missing_change:+.1f} pp",
            f"{c.unseen_share:.1%}",
        )
        for c in _ranked(verdict)
    )
    return Table(("Column", "Verdict", "PSI", "By chance", "KS", "Missing", "Unseen"), rows, "Most moved first")


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
