"""Live quality as people see it: figure, table, page and markdown of a feedback run."""

from collections.abc import Mapping, Sequence
from typing import Any

from flows.steps.pages import plots
from flows.steps.pages.page import Badge, Block, Cell, Figure, Page, Section, Table, Text

Month = Mapping[str, Any]


def interval(found: Mapping[str, float]) -> str:
    """A value with its bounds."""
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def blocks(months: Sequence[Month], promised: float, *, horizon_days: int) -> tuple[Block, ...]:
    """Figure and table of ROC AUC per month beside `promised`, what the gate measured, and the dummy's 0.5."""
    if not months:
        return (Text("No month had enough mature labels."),)
    auc = [m["roc_auc"] for m in months]
    figure = plots.monthly_quality(
        [m["month"] for m in months],
        [a["value"] for a in auc],
        [a["low"] for a in auc],
        [a["high"] for a in auc],
        promised=promised,
        dummy=0.5,
    )
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            m["month"],
            m["labels"],
            f"{m['base_rate']:.1%}",
            interval(m["roc_auc"]),
            interval(m["average_precision"]),
            interval(m["brier_skill"]),
            ", ".join(r.split(":")[-1] for r in m["releases"]),
        )
        for m in months
    )
    headers = ("Month", "Labels", "Positive", "ROC AUC", "Average precision", "Brier skill", "Releases")
    caption = f"The gate's promise: ROC AUC {promised:.3f}. A dummy that answers the base rate: 0.5, skill 0."
    return (
        Figure(figure, "Live ROC AUC per month with its interval, beside what the gate promised and the dummy"),
        Table(headers, rows, caption),
        Text(f"Intervals are bootstrap intervals over entities. A label is mature after {horizon_days} days."),
    )


def left_out(result: Mapping[str, Any]) -> str:
    """That labelled answers of quarantined periods are not measured as live quality; "" where there are none."""
    broken = result.get("quarantined", {})
    if not broken.get("labels"):
        return ""
    periods = "; ".join(broken["periods"])
    return f" {broken['labels']:,} of them were given on broken data and are not measured: {periods}."


def page(title: str, result: Mapping[str, Any], promised: float, *, horizon_days: int) -> Page:
    """The report of a feedback run."""
    months = result["months"]
    worst = min((m["roc_auc"]["value"] for m in months), default=None)
    text = f"{result['labels']:,} of {result['answers']:,} answers have a mature label.{left_out(result)}"
    lead = Badge("Measured" if months else "Too few labels", "good" if months else "warn", text)
    if worst is not None and worst < promised:
        lead = Badge("Below the promise", "warn", f"{text} The worst month reached ROC AUC {worst:.3f}.")
    canaries = [
        Section(arm, arm, blocks(found, promised, horizon_days=horizon_days))
        for arm, found in result.get("canaries", {}).items()
        if found
    ]
    return Page(
        title=f"Live quality: {title}",
        subtitle=f"as of {result['as_of'][:10]}",
        lead=(lead,),
        sections=(Section("By month", "months", blocks(months, promised, horizon_days=horizon_days)), *canaries),
    )


def as_markdown(title: str, result: Mapping[str, Any]) -> str:
    """Live quality per month as a table, for a Prefect artifact."""
    lines = [
        f"# {title}: live quality as of {result['as_of'][:10]}",
        *([left_out(result).strip()] if left_out(result) else []),
        "",
        "| month | labels | ROC AUC | average precision |",
        "|---|---:|---:|---:|",
    ]
    arms = {"": result["months"], **{f" {arm}": months for arm, months in result.get("canaries", {}).items()}}
    for arm, months in arms.items():
        for m in months:
            lines.append(
                f"| {m['month']}{arm} | {m['labels']} | {interval(m['roc_auc'])} | {interval(m['average_precision'])} |"
            )
    return "\n".join(lines)
