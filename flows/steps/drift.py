"""Drift between a reference and a window: measures on column sketches, and the verdict over all columns.

A column drifts when an effect is both large (above the use case's limit) and real (beyond what two finite samples of
one distribution show with probability `CHANCE`). Effect sizes alone raise false alarms on small windows, p-values
alone on large ones.
"""

import json
import math
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, chdtri

from flows.usecases.spec import DriftRules

CHANCE = 0.001  # probability with which one measure of one undrifted column may pass for real
Z = 3.2905  # two-sided standard normal quantile of CHANCE

State = Literal["drift", "none", "not_enough_data"]
Counts = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """Counts of one column: `counts` per numeric bin or per category; `n` rows are their sum and `missing` together.

    Numeric: `edges` are the inner bin borders fixed by the reference (k edges, k + 1 counts, bins
    `(-inf, e0), [e0, e1), …, [ek, inf)`). Categorical: `categories` names the counts and `edges` is empty.
    """

    name: str
    kind: str  # "numeric" or "categorical"
    n: int
    missing: int
    counts: tuple[int, ...]
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()


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


def _common(reference: Sketch, current: Sketch) -> tuple[Counts, Counts]:
    """Counts of both, without the bins that are empty in both; ValueError if their bins differ."""
    ours = (reference.name, reference.kind, reference.edges, reference.categories)
    if ours != (current.name, current.kind, current.edges, current.categories):
        raise ValueError(
            f"sketches of {reference.name!r} and {current.name!r} have different bins; "
            "count the window with bin_counts(frame, reference)"
        )
    a, b = np.asarray(reference.counts, dtype=float), np.asarray(current.counts, dtype=float)
    used = (a + b) > 0
    return a[used], b[used]


def psi(reference: Sketch, current: Sketch) -> float:
    """Population stability index, `sum((q - p) ln(q / p))` over the bins: 0 for equal shares, symmetric, unbounded.

    Shares are smoothed as `(count + 0.5) / (n + 0.5 k)` (Krichevsky & Trofimov 1981), so that an empty bin is finite.
    0 if either side has no value at all; `missing_change` speaks then. Source: Siddiqi, Credit Risk Scorecards (2006).
    """
    a, b = _common(reference, current)
    if a.sum() == 0 or b.sum() == 0:
        return 0.0
    p, q = (a + 0.5) / (a.sum() + 0.5 * a.size), (b + 0.5) / (b.sum() + 0.5 * b.size)
    return float(np.sum((q - p) * np.log(q / p)))


def psi_noise(reference: Sketch, current: Sketch) -> tuple[float, float]:
    """PSI of two samples of one distribution: its expectation and the value exceeded with probability `CHANCE`.

    Without drift, PSI is about `(1/n + 1/m)` times chi-square with k - 1 degrees of freedom (Yurdakul, Statistical
    Properties of Population Stability Index, 2018): expectation `(k - 1)(1/n + 1/m)`.
    """
    a, b = _common(reference, current)
    if a.size < 2 or a.sum() == 0 or b.sum() == 0:
        return 0.0, 0.0
    scale = 1 / a.sum() + 1 / b.sum()
    return float((a.size - 1) * scale), float(chdtri(a.size - 1, CHANCE) * scale)


def ks(reference: Sketch, current: Sketch) -> float:
    """Kolmogorov-Smirnov distance over the bins, `max |F - G|` at their borders: 0 to 1, symmetric.

    A lower bound of the raw statistic, short of it by at most the mass of one bin. 0 for categories, which have no
    order, and if either side has no value at all.
    """
    a, b = _common(reference, current)
    if reference.kind != "numeric" or a.sum() == 0 or b.sum() == 0:
        return 0.0
    return float(np.abs(np.cumsum(a) / a.sum() - np.cumsum(b) / b.sum()).max())


def ks_noise(reference: Sketch, current: Sketch) -> float:
    """Distance exceeded with probability `CHANCE` without drift: `sqrt(ln(2 / CHANCE) / 2 (1/n + 1/m))` (Smirnov 1948).

    1 if either side has no value at all.
    """
    n, m = sum(reference.counts), sum(current.counts)
    return math.sqrt(math.log(2 / CHANCE) / 2 * (1 / n + 1 / m)) if n and m else 1.0


def chi_square(reference: Sketch, current: Sketch) -> tuple[float, float]:
    """Pearson's statistic and p of the 2 x k table of both counts, unseen values being a bin like any other.

    For information only: with enough rows any difference, however small, has p near 0. (0, 1) if nothing to compare.
    """
    a, b = _common(reference, current)
    if a.size < 2 or a.sum() == 0 or b.sum() == 0:
        return 0.0, 1.0
    total = a.sum() + b.sum()
    expected_a, expected_b = (a + b) * a.sum() / total, (a + b) * b.sum() / total
    statistic = float(np.sum((a - expected_a) ** 2 / expected_a + (b - expected_b) ** 2 / expected_b))
    return statistic, float(chdtrc(a.size - 1, statistic))


def missing_change(reference: Sketch, current: Sketch) -> float:
    """Share of missing rows in the window minus that in the reference, -1 to 1; 0 if either has no row."""
    if not reference.n or not current.n:
        return 0.0
    return current.missing / current.n - reference.missing / reference.n


def _missing_noise(reference: Sketch, current: Sketch) -> float:
    """Change exceeded with probability `CHANCE` without drift: the pooled two-proportion z-test."""
    if not reference.n or not current.n:
        return 1.0
    pooled = (reference.missing + current.missing) / (reference.n + current.n)
    return Z * math.sqrt(pooled * (1 - pooled) * (1 / reference.n + 1 / current.n))


def unseen_share(reference: Sketch, current: Sketch) -> float:
    """Share of the window's values that fall where the reference has none: new categories, numbers outside a discrete
    column's range. 0 to 1; 0 if either side has no value at all."""
    a, b = _common(reference, current)
    return float(b[a == 0].sum() / b.sum()) if a.sum() and b.sum() else 0.0


def _unseen_by_chance(reference: Sketch, current: Sketch) -> float:
    """Probability that none of the unseen rows fell into the reference, were both one sample: `(m / (n + m))^rows`."""
    a, b = _common(reference, current)
    return float((b.sum() / (a.sum() + b.sum())) ** b[a == 0].sum()) if b.sum() else 1.0


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
    elif abs(change) > max(rules.max_missing_change, _missing_noise(reference, current)):
        limit = 100 * rules.max_missing_change
        reasons.append(f"missing values changed by {100 * change:+.1f} points (limit {limit:g})")
    if unseen > rules.max_unseen_share and _unseen_by_chance(reference, current) < CHANCE:
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
