"""Drift between a reference and a window: measures on column sketches, and the verdict over all columns.

A column drifts when an effect is both large (above the use case's limit) and real (beyond what two finite samples of
one distribution show, as calibrated, with the number of measures and of columns accounted for). Effect sizes alone
raise false alarms on small windows, p-values alone on large ones.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np

from bentos.runtime.monitoring import calibration
from bentos.runtime.monitoring.calibration import TESTS, Calibration
from bentos.runtime.monitoring.measures import (
    Sketch,
    jensen_shannon,
    ks,
    missing_by_chance,
    missing_change,
    psi,
    unseen_by_chance,
    unseen_share,
    wasserstein,
)
from bentos.runtime.monitoring.rules import DriftRules

State = Literal["drift", "none", "not_enough_data"]


@dataclass(frozen=True, kw_only=True)
class ColumnDrift:
    """What the measures say of one column in a window of `n` rows.

    `psi_noise` is the PSI that chance alone leads to expect; `shift` the Wasserstein distance in standard deviations of
    the reference; `missing_change` is signed, a share of rows; `p` the chance of effects as large without drift, for
    all measures of the column together; `reason` is "" unless drifted.
    """

    name: str
    kind: str
    n: int
    psi: float
    ks: float
    missing_change: float
    unseen_share: float
    psi_noise: float
    shift: float = 0.0
    jensen_shannon: float = 0.0
    p: float = 1.0
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
        p=0.0,
        drifted=True,
        reason="the column is absent from the window",
    )


Effects = tuple[tuple[float, str], ...]  # chance and text of each effect above its limit


def _column(reference: Sketch, current: Sketch, rules: DriftRules, known: Calibration) -> tuple[ColumnDrift, Effects]:
    """What the measures say, not yet judged, and its large effects."""
    values = {"psi": psi(reference, current), "ks": ks(reference, current), "shift": wasserstein(reference, current)}
    noise = {measure: known.of(measure, reference, current) for measure in values}
    chance = {measure: float(noise[measure].chance(value)) for measure, value in values.items()}
    change, unseen = missing_change(reference, current), unseen_share(reference, current)
    chance |= {"missing": missing_by_chance(reference, current), "unseen": unseen_by_chance(reference, current)}
    expected = noise["psi"].mean if math.isfinite(noise["psi"].mean) else 0.0
    effects = []
    if current.n and current.missing == current.n and reference.missing < reference.n:
        effects.append((chance["missing"], "the window has no value at all"))
    elif abs(change) > rules.max_missing_change:
        limit = 100 * rules.max_missing_change
        effects.append((chance["missing"], f"missing values changed by {100 * change:+.1f} points (limit {limit:g})"))
    if unseen > rules.max_unseen_share:
        text = f"{unseen:.1%} of values are unseen in the reference (limit {rules.max_unseen_share:.1%})"
        effects.append((chance["unseen"], text))
    if values["psi"] - expected > rules.max_psi:
        text = f"PSI {values['psi']:.2f}, of which chance explains {expected:.2f} (limit {rules.max_psi:g})"
        effects.append((chance["psi"], text))
    if values["ks"] > rules.max_ks:
        effects.append((chance["ks"], f"KS {values['ks']:.2f} (limit {rules.max_ks:g})"))
    if values["shift"] > rules.max_shift:
        text = f"moved by {values['shift']:.2f} standard deviations (limit {rules.max_shift:g})"
        effects.append((chance["shift"], text))
    column = ColumnDrift(
        name=reference.name,
        kind=reference.kind,
        n=current.n,
        missing_change=change,
        unseen_share=unseen,
        psi_noise=expected,
        jensen_shannon=jensen_shannon(reference, current),
        p=min(1.0, TESTS * min(chance.values())),
        drifted=False,
        reason="",
        **values,
    )
    return column, tuple(effects)


def _columns(
    reference: tuple[Sketch, ...], window: dict[str, Sketch], rules: DriftRules, known: Calibration
) -> tuple[ColumnDrift, ...]:
    """Every column judged: an effect counts when it is large and its chance is below the false-discovery cut-off."""
    found = [_column(r, window[r.name], rules, known) for r in reference if r.name in window]
    limit = float(calibration.cutoff(np.array([column.p for column, _ in found]), rules.false_alarms))
    judged = {}
    for column, effects in found:
        reasons = [text for chance, text in effects if TESTS * chance <= limit]
        judged[column.name] = replace(column, drifted=bool(reasons), reason="; ".join(reasons))
    n = max((sketch.n for sketch in window.values()), default=0)
    return tuple(judged[r.name] if r.name in judged else _absent(r, n) for r in reference)


def compare(
    reference: tuple[Sketch, ...],
    current: tuple[Sketch, ...],
    rules: DriftRules,
    known: Calibration | None = None,
) -> Verdict:
    """The verdict on a window against the reference; columns that only the window has are ignored.

    `drift` needs `rules.min_rows` rows and `rules.min_drifted_columns` drifted columns; a column that the window
    lacks has drifted. Without a stored calibration one is made for the window's size. ValueError if a column's bins are
    not the reference's.
    """
    window = {sketch.name: sketch for sketch in current}
    n = max((sketch.n for sketch in current), default=0)
    known = known or calibration.calibrate(reference, rules, sizes=(max(1, n),), check=False)
    columns = _columns(reference, window, rules, known)
    reasons = tuple(f"{column.name}: {column.reason}" for column in columns if column.drifted)
    state: State = "drift" if len(reasons) >= max(1, rules.min_drifted_columns) else "none"
    if n < rules.min_rows:
        state, reasons = "not_enough_data", (f"the window has {n} rows, {rules.min_rows} are needed",)
    elif reasons and state == "none":
        few = f"{len(reasons)} of {len(columns)} columns drifted, {rules.min_drifted_columns} are needed"
        reasons = (few, *reasons)
    return Verdict(state=state, reasons=reasons, n=n, columns=columns, rules=rules)


def persistent(verdict: Verdict, earlier: Sequence[bool]) -> Verdict:
    """The verdict, which is `none` unless enough of the newest windows drifted too.

    `earlier` says of each window before this one whether it drifted, the newest last; `rules.persist` of the newest
    `rules.persist_of` windows, this one included, must have.
    """
    rules = verdict.rules
    newest = [*earlier, True][-max(1, rules.persist_of) :]
    if verdict.state != "drift" or sum(newest) >= rules.persist:
        return verdict
    few = f"{sum(newest)} of the last {len(newest)} windows drifted, {rules.persist} of {rules.persist_of} are needed"
    return replace(verdict, state="none", reasons=(few, *verdict.reasons))


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
    lines += ["", "| column | PSI | by chance | KS | shift | missing | unseen | |", "|---|--:|--:|--:|--:|--:|--:|---|"]
    for c in sorted(verdict.columns, key=lambda c: (not c.drifted, c.psi_noise - c.psi)):
        distance, shift = (f"{c.ks:.3f}", f"{c.shift:.2f} sd") if c.kind == "numeric" else ("–", "–")
        name = c.name.replace("|", "\\|")
        lines.append(
            f"| {name} | {c.psi:.3f} | {c.psi_noise:.3f} | {distance} | {shift} | {100 * c.missing_change:+.1f} pp "
            f"| {c.unseen_share:.1%} | {'**drifted**' if c.drifted else ''} |"
        )
    return "\n".join(lines) + "\n"
