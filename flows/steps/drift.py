"""Drift between a reference and a window: measures on column sketches, and the verdict over all columns.

A column drifts when an effect is both large (above the use case's limit) and real (beyond what two finite samples of
one distribution show with probability `CHANCE`). Effect sizes alone raise false alarms on small windows, p-values
alone on large ones.
"""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from flows.steps.measures import (
    CHANCE,
    Sketch,
    ks,
    ks_noise,
    missing_change,
    missing_noise,
    psi,
    psi_noise,
    unseen_by_chance,
    unseen_share,
)
from flows.usecases.spec import DriftRules

State = Literal["drift", "none", "not_enough_data"]


@dataclass(frozen=True, kw_only=True)
class ColumnDrift:
    """What the measures say of one column in a window of `n` rows.

    `psi_noise` is the PSI that chance alone leads to expect; `missing_change` is signed, a share of rows; `reason` is
    "" unless drifted.
    """

    name: str
    kind: str
    n: int
    psi: float
    ks: float
    missing_change: float
    unseen_share: float
    psi_noise: float
    drifted: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer to "has the world changed since the reference?": `n` rows judged by `rules`."""

    state: State
    reasons: tuple[str, ...]
    n: int
    columns: tuple[ColumnDrift, ...]
    rules: DriftRules


def _absent(reference: Sketch, n: int) -> ColumnDrift:
    return ColumnDrift(
        name=reference.name,
        kind=reference.kind,
        n=n,
        psi=0.0,
        ks=0.0,
        missing_change=1.0,
        unseen_share=0.0,
        psi_noise=0.0,
        drifted=True,
        reason="the column is absent from the window",
    )


def _column(reference: Sketch, current: Sketch, rules: DriftRules) -> ColumnDrift:
    index, distance = psi(reference, current), ks(reference, current)
    change, unseen = missing_change(reference, current), unseen_share(reference, current)
    expected, rare = psi_noise(reference, current)
    reasons = []
    if current.n and current.missing == current.n and reference.missing < reference.n:
        reasons.append("the window has no value at all")
    elif abs(change) > max(rules.max_missing_change, missing_noise(reference, current)):
        limit = 100 * rules.max_missing_change
        reasons.append(f"missing values changed by {100 * change:+.1f} points (limit {limit:g})")
    if unseen > rules.max_unseen_share and unseen_by_chance(reference, current) < CHANCE:
        reasons.append(f"{unseen:.1%} of values are unseen in the reference (limit {rules.max_unseen_share:.1%})")
    if index - expected > rules.max_psi and index > rare:
        reasons.append(f"PSI {index:.2f}, of which chance explains {expected:.2f} (limit {rules.max_psi:g})")
    if distance > max(rules.max_ks, ks_noise(reference, current)):
        reasons.append(f"KS {distance:.2f} (limit {rules.max_ks:g})")
    return ColumnDrift(
        name=reference.name,
        kind=reference.kind,
        n=current.n,
        psi=index,
        ks=distance,
        missing_change=change,
        unseen_share=unseen,
        psi_noise=expected,
        drifted=bool(reasons),
        reason="; ".join(reasons),
    )


def compare(reference: tuple[Sketch, ...], current: tuple[Sketch, ...], rules: DriftRules) -> Verdict:
    """The verdict on a window against the reference; columns that only the window has are ignored.

    `drift` needs `rules.min_rows` rows and `rules.min_drifted_columns` drifted columns; a column that the window
    lacks has drifted. ValueError if a column's bins are not the reference's.
    """
    window = {sketch.name: sketch for sketch in current}
    n = max((sketch.n for sketch in current), default=0)
    columns = tuple(_column(r, window[r.name], rules) if r.name in window else _absent(r, n) for r in reference)
    reasons = tuple(f"{column.name}: {column.reason}" for column in columns if column.drifted)
    state: State = "drift" if len(reasons) >= max(1, rules.min_drifted_columns) else "none"
    if n < rules.min_rows:
        state, reasons = "not_enough_data", (f"the window has {n} rows, {rules.min_rows} are needed",)
    elif reasons and state == "none":
        few = f"{len(reasons)} of {len(columns)} columns drifted, {rules.min_drifted_columns} are needed"
        reasons = (few, *reasons)
    return Verdict(state=state, reasons=reasons, n=n, columns=columns, rules=rules)


def to_json(verdict: Verdict) -> str:
    """Canonical JSON: sorted keys, no NaN."""
    return json.dumps(asdict(verdict), sort_keys=True, allow_nan=False)


def from_json(text: str) -> Verdict:
    """The verdict that `to_json` wrote; ValueError if it is none."""
    try:
        raw = json.loads(text)
        columns = tuple(ColumnDrift(**column) for column in raw.pop("columns"))
        return Verdict(
            **{**raw, "reasons": tuple(raw["reasons"]), "columns": columns, "rules": DriftRules(**raw["rules"])}
        )
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"not a drift verdict: {error!r}") from error


def as_markdown(verdict: Verdict) -> str:
    """The verdict as a short Markdown text with a table of columns, the most drifted first."""
    title = {"drift": "Drift", "none": "No drift", "not_enough_data": "Not enough data"}[verdict.state]
    lines = [f"## {title}", "", f"{verdict.n:,} rows, {len(verdict.columns)} columns.", ""]
    lines += [f"- {reason}" for reason in verdict.reasons]
    lines += ["", "| column | PSI | by chance | KS | missing | unseen | |", "|---|--:|--:|--:|--:|--:|---|"]
    for c in sorted(verdict.columns, key=lambda c: (not c.drifted, c.psi_noise - c.psi)):
        distance = f"{c.ks:.3f}" if c.kind == "numeric" else "–"
        name = c.name.replace("|", "\\|")
        lines.append(
            f"| {name} | {c.psi:.3f} | {c.psi_noise:.3f} | {distance} | {100 * c.missing_change:+.1f} pp "
            f"| {c.unseen_share:.1%} | {'**drifted**' if c.drifted else ''} |"
        )
    return "\n".join(lines) + "\n"
