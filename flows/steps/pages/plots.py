"""Pictures of quality over time and of drift as PNG bytes, readable at the width of a phone; titles say what is seen.

Figures are built with matplotlib's object API, so nothing is kept in pyplot's global state. Colours are Okabe and
Ito's, which differ for every kind of colour vision.
"""

import textwrap
from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flows.steps.monitoring.course import Point

BLUE, ORANGE, RED, GREY = "#0072B2", "#E69F00", "#D55E00", "#666666"
COLOURS = (GREY, BLUE, ORANGE, RED, "#009E73", "#CC79A7", "#56B4E9")
LINES = ("o-", "s--")
SMALL, TITLE = 9, 10
MOST_BARS = 12


def quality_over_time(points: Sequence[Point], title: str, *, metric: str, dummy: float) -> bytes:
    """A metric per month and release: estimated and measured with intervals, what was promised, a dummy if near."""
    figure, axes = blank(title, "month", metric)
    sides = (("estimated", ORANGE, "s", -0.12), ("measured", BLUE, "o", 0.12))
    for name, colour, marker, aside in sides:
        shown = [(at, span) for at, point in enumerate(points) if (span := getattr(point, name)) is not None]
        if shown:
            x = [at + aside for at, _ in shown]
            axes.vlines(x, [s.low for _, s in shown], [s.high for _, s in shown], color=colour, linewidth=1.5)
            axes.plot(x, [s.value for _, s in shown], marker, color=colour, label=name, markersize=4)
    promised = [(at, point.promised) for at, point in enumerate(points) if point.promised is not None]
    if promised:
        x, y = [at for at, _ in promised], [value for _, value in promised]
        axes.hlines(y, [at - 0.4 for at in x], [at + 0.4 for at in x], color="black", linestyle="--", label="promised")
    spans = [span for point in points for span in (point.estimated, point.measured) if span is not None]
    ends = [*(value for _, value in promised), *(s.low for s in spans), *(s.high for s in spans)]
    margin = max(0.02, 0.3 * (max(ends, default=0.0) - min(ends, default=0.0)))  # the dummy shows where it is near
    axes.set_ylim(min(ends, default=0.0) - 1.5 * margin, max(ends, default=1.0) + margin)
    if axes.get_ylim()[0] < dummy:
        axes.axhline(dummy, color=GREY, linestyle=":", label=f"dummy {dummy:.3g}")
    step = max(1, -(-len(points) // 6))
    labels = [f"{p.month}\n{short(p.release.split(':')[-1].split('-')[0])}" for p in points]
    axes.set_xticks(range(len(points))[::step], labels[::step])
    axes.set_xlim(-0.6, len(points) - 0.4)
    axes.legend(fontsize=SMALL, ncols=3, loc="lower right")
    return png(figure)


def policies_over_time(times: Sequence[str], values: Mapping[str, Sequence[float]], *, metric: str) -> bytes:
    """A metric per window for each policy, NaN where it is unknown; lines of equal values show beside each other."""
    figure, axes = blank(f"{metric} of the rows that came next", "window", metric)
    at = np.arange(len(times))
    for number, (name, line) in enumerate(values.items()):
        width = 1.2 + 0.9 * (len(values) - 1 - number)
        axes.plot(at, line, LINES[number // len(COLOURS)], color=COLOURS[number % len(COLOURS)], lw=width, label=name)
    step = max(1, -(-len(times) // 6))
    axes.set_xticks(at[::step], list(times)[::step], rotation=30, ha="right")
    figure.legend(fontsize=SMALL, ncols=2, loc="outside lower center")
    figure.set_size_inches(4.6, 4.4)
    return png(figure)


def trade_off(
    names: Sequence[str], costs: Sequence[float], values: Sequence[float], chosen: str, *, metric: str
) -> bytes:
    """A metric's mean against CPU seconds spent, one point per policy, in rings where several fall together."""
    title = f"{chosen} is recommended" if chosen else "Quality and compute of each policy"
    figure, axes = blank(title, "CPU seconds of trainings and watching", f"mean {metric}")
    for number, (name, cost, value) in enumerate(zip(names, costs, values, strict=True)):
        colour, size = COLOURS[number % len(COLOURS)], 6 + 2.5 * (len(names) - number)
        label, edge = (f"{name} (recommended)", "black") if name == chosen else (name, "white")
        axes.plot(cost, value, "o", label=label, markeredgecolor=edge, zorder=3 + number, color=colour, ms=size)
    axes.margins(x=0.12, y=0.2)
    figure.legend(fontsize=SMALL, ncols=2, loc="outside lower center", markerscale=0.5)
    figure.set_size_inches(4.6, 4.2)
    return png(figure)


def drift_bars(names: Sequence[str], psi: Sequence[float], limit: float) -> bytes:
    """Population stability index per column against its limit, the 12 largest."""
    shown = sorted(zip(psi, names, strict=True))[-MOST_BARS:]
    over = sum(value > limit for value in psi)
    figure, axes = blank(
        f"{over} of {len(names)} columns drifted beyond PSI {limit:g}", "PSI (population stability index)", ""
    )
    axes.barh(
        [short(name) for _, name in shown],
        [value for value, _ in shown],
        color=[RED if value > limit else BLUE for value, _ in shown],
    )
    axes.axvline(limit, color="black", linestyle="--", label=f"limit {limit:g}")
    axes.legend(fontsize=SMALL, loc="lower right")
    return png(figure)


def compare_bins(
    name: str, bins: Sequence[float] | Sequence[str], reference: Sequence[float], current: Sequence[float]
) -> bytes:
    """Shares of a column's bins then and now; `bins` names categories, or gives the k inner edges of k + 1 bins."""
    labels = _bin_labels(bins, len(reference))
    if len(labels) != len(reference) or len(reference) != len(current):
        raise ValueError(f"{len(labels)} bins, {len(reference)} reference, {len(current)} current shares of '{name}'")
    gaps = np.abs(np.asarray(current, dtype=np.float64) - np.asarray(reference, dtype=np.float64))
    title = f"{name}: {gaps.sum() / 2:.1%} of rows moved" + (f", most at {labels[gaps.argmax()]}" if gaps.any() else "")
    figure, axes = blank(title, name, "share of rows")
    at = np.arange(len(labels))
    axes.bar(at - 0.2, reference, width=0.4, color=GREY, label="reference")
    axes.bar(at + 0.2, current, width=0.4, color=ORANGE, label="now")
    axes.set_xticks(at, [short(label) for label in labels], rotation=40, ha="right")
    axes.legend(fontsize=SMALL)
    return png(figure)


def _bin_labels(bins: Sequence[float] | Sequence[str], n: int) -> list[str]:
    if len(bins) == n and any(isinstance(b, str) for b in bins):
        return [str(b) for b in bins]
    inner = [f"{b:.3g}" for b in bins if not isinstance(b, str)]
    if not inner:
        return ["all"]
    return [f"< {inner[0]}", *[f"{low} to {high}" for low, high in pairwise(inner)], f"≥ {inner[-1]}"]


def blank(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """A figure with one pair of axes and nothing on them."""
    figure = Figure(figsize=(4.6, 3.2), dpi=144, layout="constrained", facecolor="white")
    axes = figure.subplots()
    figure.suptitle(textwrap.fill(title, 56), fontsize=TITLE, x=0.02, ha="left", parse_math=False)
    axes.set_xlabel(x, fontsize=SMALL, parse_math=False)
    axes.set_ylabel(y, fontsize=SMALL, parse_math=False)
    axes.tick_params(labelsize=SMALL)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def png(figure: Figure) -> bytes:
    """The picture; equal figures give equal bytes."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def short(name: str) -> str:
    """A name that fits beside an axis."""
    return name if len(name) <= 22 else name[:21] + "…"
