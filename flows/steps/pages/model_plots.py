"""Pictures of a model as PNG bytes, in the manner of `plots`."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flows.steps.pages.plots import BLUE, GREY, MOST_BARS, ORANGE, RED, SMALL, TITLE, blank, png, short
from flows.steps.training.metrics import Importance, classification
from flows.steps.training.resampling import BINS, Floats, checked


def confusion(y: ArrayLike, scores: ArrayLike, threshold: float) -> bytes:
    """How many rows of each label [n] got which answer at the threshold."""
    labels, values = checked(y, scores)
    answered = values >= threshold
    table = np.array([[np.sum((labels == truth) & (answered == answer)) for answer in (0, 1)] for truth in (0, 1)])
    right = (table[0, 0] + table[1, 1]) / table.sum()
    figure, axes = blank(f"{right:.1%} of {table.sum():,} rows answered rightly at {threshold:.3g}", "answer", "truth")
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
    return png(figure)


def roc(y: ArrayLike, scores: ArrayLike, champion_scores: ArrayLike | None = None) -> bytes:
    """True against false positive rate over all thresholds, optionally with the champion's on the same rows."""
    auc = classification(y, scores, 0.5)["roc_auc"]
    figure, axes = blank(
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
    return png(figure)


def precision_recall(y: ArrayLike, scores: ArrayLike, threshold: float | None = None) -> bytes:
    """Precision against recall over all thresholds, the base rate as reference, the threshold as a point."""
    measured = classification(y, scores, 0.5 if threshold is None else threshold)
    figure, axes = blank(
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
    return png(figure)


def calibration(y: ArrayLike, scores: ArrayLike) -> bytes:
    """Outcome against score in 10 equal-frequency bins, over a histogram of the scores."""
    labels, values = checked(y, scores)
    error = classification(labels, values, 0.5)["calibration_error"]
    figure, axes = blank(
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
    return png(figure)


def importance(items: Sequence[Importance]) -> bytes:
    """Drop of ROC AUC per shuffled column with its standard deviation, the 12 largest."""
    shown = sorted(items, key=lambda item: item.drop)[-MOST_BARS:]
    title = f"{shown[-1].name} matters most" if shown else "no columns"
    figure, axes = blank(title, "drop of ROC AUC when shuffled", "")
    axes.barh(
        [short(item.name) for item in shown],
        [item.drop for item in shown],
        xerr=[item.sd for item in shown],
        color=BLUE,
        ecolor="black",
        capsize=2,
    )
    return png(figure)


def score_histogram(scores: ArrayLike, threshold: float) -> bytes:
    """How the scores [n] are spread, and where the threshold cuts."""
    values = np.asarray(scores, dtype=np.float64)
    figure, axes = blank(
        f"{np.mean(values >= threshold):.1%} of {len(values):,} rows are answered with 1", "score (probability)", "rows"
    )
    axes.hist(values, bins=40, range=(0, 1), color=BLUE)
    axes.axvline(threshold, color=RED, linestyle="--", label=f"threshold {threshold:.3g}")
    axes.legend(fontsize=SMALL)
    return png(figure)


def _cumulated(y: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """Hits and false alarms when answering 1 from the highest score down, one point per distinct score."""
    labels, values = checked(y, scores)
    order = np.argsort(-values, kind="stable")
    last: NDArray[np.int64] = np.append(np.flatnonzero(np.diff(values[order])), len(order) - 1)
    hits = np.cumsum(labels[order])[last]
    return np.append(0.0, hits), np.append(0.0, last + 1 - hits)
