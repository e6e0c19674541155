"""How checks of drift are told in a demo: in a few words, and month by month on its page."""

from collections.abc import Mapping, Sequence
from os.path import relpath
from pathlib import Path
from typing import Any

from flows.steps.pages import live, plots
from flows.steps.pages.page import Badge, Block, Cell, Figure, Gallery, Kind, Links, Table, Text

KINDS: dict[str, Kind] = {
    "none": "good",
    "benign": "info",
    "harmful": "bad",
    "data_bug": "bad",
    "not_enough_data": "warn",
}


def blocks(checks: Sequence[Mapping[str, Any]], home: Path) -> tuple[Block, ...]:
    """Text, table, pictures and links of the months' checks."""
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            c["month"] + (" injected" if c["injected"] else ""),
            c["release"].split(":")[-1],
            c["rows"],
            Badge(c["kind"], KINDS[c["kind"]]),
            ", ".join(c["drifted"]) or "–",
            live.interval(c["quality"]["estimated"]) if "estimated" in c["quality"] else "–",
            action(c),
        )
        for c in checks
    )
    figures = tuple(
        Figure(
            plots.drift_bars(list(c["psi"]), list(c["psi"].values()), c["max_psi"]),
            f"PSI per column in {c['month']}",
            f"{c['month']}, {c['release'].split(':')[-1]}" + (" (injected)" if c["injected"] else ""),
        )
        for c in checks
        if c["rows"]
    )
    links = tuple(
        (
            f"Drift report {c['month']}, {c['release'].split(':')[-1]}{' (injected)' if c['injected'] else ''}",
            relpath(c["report"], home / "demo"),
        )
        for c in checks
    )
    return (
        Text(
            "Nobody joins after March 1997, so every customer grows older and most fall silent: tenure and recency "
            "move by themselves, while live quality rises. The check estimates quality from the scores, calls this "
            "drift benign, and after three such months asks for a refresh on newer labels, as the use case declares; "
            "whether the new model is better is for the gates. Amounts in cents are no drift but broken data: they "
            "alert, and train nothing."
        ),
        Table(
            ("Month", "Release", "Answers", "Kind", "Columns beyond their limits", "Estimated ROC AUC", "Action"), rows
        ),
        Gallery(figures),
        Links(links),
    )


def action(checked: Mapping[str, Any]) -> str:
    """What a check led to, in a few words."""
    if checked["event"]:
        return f"an event asks for a training: {checked['asks']}"
    if checked["alert"]:
        return "an alert is sent; nothing is trained on this"
    return (checked["waits"] if checked["asks"] else None) or "nothing to do"
