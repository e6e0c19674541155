"""Quality over time as people see it: estimated beside measured, per month and release."""

from collections.abc import Sequence

from flows.steps.monitoring import course
from flows.steps.monitoring.course import Point, Span
from flows.steps.monitoring.kinds import BLIND
from flows.steps.pages import plots
from flows.steps.pages.page import Badge, Block, Cell, Figure, Table, Text

NAME = "ROC AUC"
DUMMY = 0.5  # ROC AUC of an answer that is the same for everybody
EXPLAINED = (
    "The 95 % interval of an estimate is one for the figure that labels measure later on the same rows: it holds the "
    "draw of their labels, the error of the recalibration, and how far such estimates were off between the cut-offs of "
    "the training. "
)


def figure(points: Sequence[Point]) -> Figure:
    """The picture of the course."""
    alt = "ROC AUC per month and release with intervals: estimated, measured, what the gates promised, and the dummy"
    return Figure(plots.quality_over_time(points, title(points), metric=NAME, dummy=DUMMY), alt)


def title(points: Sequence[Point]) -> str:
    """What the picture shows, in a line."""
    within, known = course.kept(points)
    if known:
        return f"{within} of {known} estimates held what labels measured"
    measured = [p.promised is None or p.measured.value >= p.promised for p in points if p.measured is not None]
    if measured:
        months = "1 month" if len(measured) == 1 else f"{len(measured)} months"
        return f"{NAME} reached its promise in {sum(measured)} of {months}"
    return f"{NAME} as estimated; no labels are in yet"


def blocks(points: Sequence[Point]) -> tuple[Block, ...]:
    """Picture, table and a sentence that says how well the estimates did; () where nothing is known."""
    if not points:
        return ()
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            point.month,
            point.release.split(":")[-1],
            _text(point.estimated),
            _text(point.measured),
            "–" if point.promised is None else f"{point.promised:.3f}",
            _held(point),
        )
        for point in points
    )
    within, known = course.kept(points)
    said = f"Measured within the estimate's interval: {within} of {known} windows with labels. " if known else ""
    headers = ("Month", "Release", "Estimated ROC AUC", "Measured", "Promised", "On the window's own rows")
    return (figure(points), Table(headers, rows), Text(f"{said}{EXPLAINED}{BLIND}"))


def _text(span: Span | None) -> str:
    return "–" if span is None else f"{span.value:.3f} ({span.low:.3f} to {span.high:.3f})"


def _held(point: Point) -> Cell:
    if point.inside is None:
        return "no labels yet" if point.estimated else "–"
    return Badge("within", "good") if point.inside else Badge("outside", "warn")
