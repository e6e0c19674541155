"""Pictures of a model and of drift as PNG bytes, readable at the width of a phone; titles say what is seen.

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
from numpy.typing import ArrayLike, NDArray

from flows.steps.monitoring.course import Point
from flows.steps.training.metrics import Importance, classification
from flows.steps.training.resampling import BINS, Floats, checked

BLUE, ORANGE, RED, GREY = "#0072B2", "#E69F00", "#D55E00", "#666666"
COLOURS = (GREY, BLUE, ORANGE, RED, "#009E73", "#CC79A7", "#56B4E9")
LINES = ("o-", "s--")
SMALL, TITLE = 9, 10
MOST_BARS = 12


def confusion(y: ArrayLike, scores: ArrayLike, threshold: float) -> bytes:
    """How many rows of each label [n] got which answer at the threshold."""
    labels, values = checked(y, scores)
    answered = values >= threshold
    table = np.array([[np.sum((labels == truth) & (answered == answer)) for answer in (0, 1)] for truth in (0, 1)])
    right = (table[0, 0] + table[1, 1]) / table.sum()
    figure, axes = _figure(
        f"{right:.1%} of {table.sum():,} rows answered rightly at {threshold:.3g}", "answer", "truth"
    )
    axes.imshow(table / table.sum(axis=1, keepdims=True), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (truth, answer), count in np.ndenumerate(table):
        share = count / table[truth].sum()
        axes.text(
            answer,
            truth,
            f"{count:,}\n{share:.1%} of row",
            ha="center",
            va="center",
            fontsize=TITLE,
            color="white" if share > 0.55 else "black",
        )
    axes.set_xticks([0, 1], ["0", "1"])
    axes.set_yticks([0, 1], ["0", "1"])
    axes.grid(False)
    return _png(figure)


def roc(y: ArrayLike, scores: ArrayLike, champion_scores: ArrayLike | None = None) -> bytes:
    """True against false positive rate over all thresholds, optionally with the champion's on the same rows."""
    auc = classification(y, scores, 0.5)["roc_auc"]
    figure, axes = _figure(
        f"ROC AUC {auc:.3f}: {100 * auc:.0f} of 100 pairs in the right order",
        "false positive rate",
        "true positive rate",
    )
    if champion_scores is not None:
        hits, false = _cumulated(y, champion_scores)
        before = classification(y, champion_scores, 0.5)["roc_auc"]
        axes.plot(false / false[-1], hits / hits[-1], color=ORANGE, label=f"champion {before:.3f}")
    hits, false = _cumulated(y, scores)
    axes.plot(false / false[-1], hits / hits[-1], color=BLUE, label=f"candidate {auc:.3f}")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="by chance 0.5")
    axes.legend(fontsize=SMALL, loc="lower right")
    return _png(figure)


def precision_recall(y: ArrayLike, scores: ArrayLike, threshold: float | None = None) -> bytes:
    """Precision against recall over all thresholds, the base rate as reference, the threshold as a point."""
    measured = classification(y, scores, 0.5 if threshold is None else threshold)
    figure, axes = _figure(
        f"Average precision {measured['average_precision']:.3f}, by chance {measured['base_rate']:.3f}",
        "recall",
        "precision",
    )
    hits, false = _cumulated(y, scores)
    axes.plot(hits[1:] / hits[-1], hits[1:] / (hits + false)[1:], color=BLUE, drawstyle="steps-pre", label="candidate")
    axes.axhline(measured["base_rate"], color=GREY, linestyle="--", label="base rate")
    if threshold is not None:
        axes.plot(measured["recall"], measured["precision"], "o", color=RED, label=f"threshold {threshold:.3g}")
    axes.set_ylim(0, 1.03)
    axes.legend(fontsize=SMALL, loc="lower left")
    return _png(figure)


def calibration(y: ArrayLike, scores: ArrayLike) -> bytes:
    """Outcome against score in 10 equal-frequency bins, over a histogram of the scores."""
    labels, values = checked(y, scores)
    error = classification(labels, values, 0.5)["calibration_error"]
    figure, axes = _figure(
        f"Scores are off by {error:.3f} on average (calibration error)", "score (probability)", "share that is 1"
    )
    shares = np.histogram(values, bins=20, range=(0, 1))[0] / len(values)
    axes.bar(np.arange(20) / 20, shares, width=0.05, align="edge", color=GREY, alpha=0.3, label="share of rows")
    parts = [part for part in np.array_split(np.argsort(values, kind="stable"), BINS) if len(part)]
    axes.plot(
        [values[part].mean() for part in parts],
        [labels[part].mean() for part in parts],
        "o-",
        color=BLUE,
        label="outcome per tenth",
    )
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="calibrated")
    axes.legend(fontsize=SMALL, loc="upper left")
    return _png(figure)


def importance(items: Sequence[Importance]) -> bytes:
    """Drop of ROC AUC per shuffled column with its standard deviation, the 12 largest."""
    shown = sorted(items, key=lambda item: item.drop)[-MOST_BARS:]
    title = f"{shown[-1].name} matters most" if shown else "no columns"
    figure, axes = _figure(title, "drop of ROC AUC when shuffled", "")
    axes.barh(
        [_short(item.name) for item in shown],
        [item.drop for item in shown],
        xerr=[item.sd for item in shown],
        color=BLUE,
        ecolor="black",
        capsize=2,
    )
    return _png(figure)


def score_histogram(scores: ArrayLike, threshold: float) -> bytes:
    """How the scores [n] are spread, and where the threshold cuts."""
    values = np.asarray(scores, dtype=np.float64)
    figure, axes = _figure(
        f"{np.mean(values >= threshold):.1%} of {len(values):,} rows are answered with 1", "score (probability)", "rows"
    )
    axes.hist(values, bins=40, range=(0, 1), color=BLUE)
    axes.axvline(threshold, color=RED, linestyle="--", label=f"threshold {threshold:.3g}")
    axes.legend(fontsize=SMALL)
    return _png(figure)


def quality_over_time(points: Sequence[Point], title: str, *, metric: str, dummy: float) -> bytes:
    """A metric per month and release: estimated and measured with intervals, what was promised, a dummy if near."""
    figure, axes = _figure(title, "month", metric)
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
    labels = [f"{p.month}\n{_short(p.release.split(':')[-1].split('-')[0])}" for p in points]
    axes.set_xticks(range(len(points))[::step], labels[::step])
    axes.set_xlim(-0.6, len(points) - 0.4)
    axes.legend(fontsize=SMALL, ncols=3, loc="lower right")
    return _png(figure)


def policies_over_time(times: Sequence[str], values: Mapping[str, Sequence[float]], *, metric: str) -> bytes:
    """A metric per window for each policy, NaN where it is unknown; lines of equal values show beside each other."""
    figure, axes = _figure(f"{metric} of the rows that came next", "window", metric)
    at = np.arange(len(times))
    for number, (name, line) in enumerate(values.items()):
        width = 1.2 + 0.9 * (len(values) - 1 - number)
        axes.plot(at, line, LINES[number // len(COLOURS)], color=COLOURS[number % len(COLOURS)], lw=width, label=name)
    step = max(1, -(-len(times) // 6))
    axes.set_xticks(at[::step], list(times)[::step], rotation=30, ha="right")
    figure.legend(fontsize=SMALL, ncols=2, loc="outside lower center")
    figure.set_size_inches(4.6, 4.4)
    return _png(figure)


def trade_off(
    names: Sequence[str], costs: Sequence[float], values: Sequence[float], chosen: str, *, metric: str
) -> bytes:
    """A metric's mean against CPU seconds spent, one point per policy, in rings where several fall together."""
    title = f"{chosen} is recommended" if chosen else "Quality and compute of each policy"
    figure, axes = _figure(title, "CPU seconds of trainings and watching", f"mean {metric}")
    for number, (name, cost, value) in enumerate(zip(names, costs, values, strict=True)):
        colour, size = COLOURS[number % len(COLOURS)], 6 + 2.5 * (len(names) - number)
        label, edge = (f"{name} (recommended)", "black") if name == chosen else (name, "white")
        axes.plot(cost, value, "o", label=label, markeredgecolor=edge, zorder=3 + number, color=colour, ms=size)
    axes.margins(x=0.12, y=0.2)
    figure.legend(fontsize=SMALL, ncols=2, loc="outside lower center", markerscale=0.5)
    figure.set_size_inches(4.6, 4.2)
    return _png(figure)


def drift_bars(names: Sequence[str], psi: Sequence[float], limit: float) -> bytes:
    """Population stability index per column against its limit, the 12 largest."""
    shown = sorted(zip(psi, names, strict=True))[-MOST_BARS:]
    over = sum(value > limit for value in psi)
    figure, axes = _figure(
        f"{over} of {len(names)} columns drifted beyond PSI {limit:g}", "PSI (population stability index)", ""
    )
    axes.barh(
        [_short(name) for _, name in shown],
        [value for value, _ in shown],
        color=[RED if value > limit else BLUE for value, _ in shown],
    )
    axes.axvline(limit, color="black", linestyle="--", label=f"limit {limit:g}")
    axes.legend(fontsize=SMALL, loc="lower right")
    return _png(figure)


def compare_bins(
    name: str, bins: Sequence[float] | Sequence[str], reference: Sequence[float], current: Sequence[float]
) -> bytes:
    """Shares of a column's bins then and now; `bins` names categories, or gives the k inner edges of k + 1 bins."""
    labels = _bin_labels(bins, len(reference))
    if len(labels) != len(reference) or len(reference) != len(current):
        raise ValueError(f"{len(labels)} bins, {len(reference)} reference, {len(current)} current shares of '{name}'")
    gaps = np.abs(np.asarray(current, dtype=np.float64) - np.asarray(reference, dtype=np.float64))
    title = f"{name}: {gaps.sum() / 2:.1%} of rows moved" + (f", most at {labels[gaps.argmax()]}" if gaps.any() else "")
    figure, axes = _figure(title, name, "share of rows")
    at = np.arange(len(labels))
    axes.bar(at - 0.2, reference, width=0.4, color=GREY, label="reference")
    axes.bar(at + 0.2, current, width=0.4, color=ORANGE, label="now")
    axes.set_xticks(at, [_short(label) for label in labels], rotation=40, ha="right")
    axes.legend(fontsize=SMALL)
    return _png(figure)


def _bin_labels(bins: Sequence[float] | Sequence[str], n: int) -> list[str]:
    if len(bins) == n and any(isinstance(b, str) for b in bins):
        return [str(b) for b in bins]
    inner = [f"{b:.3g}" for b in bins if not isinstance(b, str)]
    if not inner:
        return ["all"]
    return [f"< {inner[0]}", *[f"{low} to {high}" for low, high in pairwise(inner)], f"≥ {inner[-1]}"]


def _cumulated(y: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """Hits and false alarms when answering 1 from the highest score down, one point per distinct score."""
    labels, values = checked(y, scores)
    order = np.argsort(-values, kind="stable")
    last: NDArray[np.int64] = np.append(np.flatnonzero(np.diff(values[order])), len(order) - 1)
    hits = np.cumsum(labels[order])[last]
    return np.append(0.0, hits), np.append(0.0, last + 1 - hits)


def _figure(title: str, x: str, y: str) -> tuple[Figure, Axes]:
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


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _short(name: str) -> str:
    return name if len(name) <= 22 else name[:21] + "…"
