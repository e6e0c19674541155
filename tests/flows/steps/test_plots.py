from collections.abc import Callable
from io import BytesIO

import matplotlib.image
import numpy as np
import pytest
from matplotlib import _pylab_helpers

from flows.steps.monitoring.course import Point, Span
from flows.steps.pages import model_plots, plots
from flows.steps.training.metrics import Importance

RNG = np.random.default_rng(0)
P = np.round(RNG.random(400), 2)
Y = (RNG.random(400) < P).astype(np.int64)
SPAN = Span(0.8, 0.75, 0.85)
POINTS = (
    Point(month="1998-01", release="churn:v1-aa", promised=0.78, estimated=SPAN),
    *(
        Point(month=f"1998-{m:02d}", release="churn:v2-bb", promised=0.8, estimated=SPAN, measured=SPAN, inside=m < 9)
        for m in range(2, 10)
    ),
)

PICTURES: dict[str, Callable[[], bytes]] = {
    "confusion": lambda: model_plots.confusion(Y, P, 0.5),
    "confusion of one answer": lambda: model_plots.confusion(Y, P * 0.1, 0.5),
    "roc": lambda: model_plots.roc(Y, P),
    "roc with champion": lambda: model_plots.roc(Y, P, P**2),
    "precision_recall": lambda: model_plots.precision_recall(Y, P),
    "precision_recall with threshold": lambda: model_plots.precision_recall(Y, P, 0.4),
    "calibration": lambda: model_plots.calibration(Y, P),
    "calibration of few rows": lambda: model_plots.calibration([0, 1, 1], [0.2, 0.2, 0.9]),
    "importance": lambda: model_plots.importance(
        [Importance(f"a_$very_long_{i}_column_name_$", i / 99, 0.01) for i in range(30)]
    ),
    "importance of nothing": lambda: model_plots.importance([]),
    "score_histogram": lambda: model_plots.score_histogram(P, 0.5),
    "quality_over_time": lambda: plots.quality_over_time(POINTS, "title", metric="ROC AUC", dummy=0.5),
    "quality_over_time of one estimate": lambda: plots.quality_over_time(
        POINTS[:1], "title", metric="ROC AUC", dummy=0.7
    ),
    "quality_over_time of one month": lambda: plots.quality_over_time(
        (Point(month="1998-01", release="v1", measured=SPAN),), "title", metric="ROC AUC", dummy=0.5
    ),
    "drift_bars": lambda: plots.drift_bars(["a", "b"], [0.1, 0.4], 0.2),
    "compare_bins": lambda: plots.compare_bins("a", [1.0, 2.0], [0.2, 0.3, 0.5], [0.1, 0.1, 0.8]),
    "compare_bins of categories": lambda: plots.compare_bins("a", ["x", "y_$1"], [0.2, 0.8], [0.2, 0.8]),
    "compare_bins of one bin": lambda: plots.compare_bins("a", [], [1.0], [1.0]),
}


@pytest.mark.parametrize("name", PICTURES)
def test_picture_decodes_and_leaves_no_figure(name: str) -> None:
    """Every plot is a PNG with something drawn on light ground, and pyplot keeps no figure of it."""
    picture = PICTURES[name]()
    image = matplotlib.image.imread(BytesIO(picture), format="png")
    assert image.shape[:2] == (460, 662)
    assert image[0, 0, :3].min() == 1
    assert image[..., :3].std() > 0.01
    assert not _pylab_helpers.Gcf.figs


def test_pictures_are_deterministic() -> None:
    """The same data give the same bytes, so a picture can be compared by hash."""
    assert PICTURES["roc"]() == PICTURES["roc"]()


def test_bins_and_shares_must_match() -> None:
    """Shares that do not fit the bins are refused with the numbers."""
    with pytest.raises(ValueError, match="3 bins, 2 reference, 2 current shares of 'a'"):
        plots.compare_bins("a", [1.0, 2.0], [0.5, 0.5], [0.5, 0.5])
