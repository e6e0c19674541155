"""Signatures of a broken pipe: changes of a window that data make by mistake and the world hardly ever makes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from bentos.runtime.monitoring import copies, measures
from bentos.runtime.monitoring.measures import Sketch
from bentos.runtime.monitoring.rules import DriftRules

# money, metric prefixes, bytes, seconds, minutes, hours, days and weeks taken for one another; factors under 7 are not
# listed, because growth makes them too
FACTORS = (7, 10, 12, 24, 60, 100, 1_000, 1_024, 3_600, 86_400, 1_000_000)
NEAR = 0.125  # relative distance of a ratio of medians from a factor: the width of a cell
SAME, APART = 0.15, 0.3  # KS distance below which two shapes are the same, above which they are not
Knots = tuple[measures.Counts, measures.Counts]  # values, and how many lie below each
RARE = 1e-6  # chance below which a window of one value is no accident
MIN_VALUES = 100


@dataclass(frozen=True)
class Signature:
    """One sign of a broken pipe: its name, the column it was seen in ("" for whole rows), and what was seen."""

    name: str
    column: str
    text: str


def find(
    reference: tuple[Sketch, ...], window: tuple[Sketch, ...], repeated: copies.Copies, rules: DriftRules
) -> tuple[Signature, ...]:
    """Every signature of the window, in the order of the columns; none of fewer than `rules.min_rows` rows."""
    current = {sketch.name: sketch for sketch in window}
    pairs = [(then, current[then.name]) for then in reference if then.name in current]
    if max((now.n for _, now in pairs), default=0) < rules.min_rows:
        return ()
    found = [signature for then, now in pairs for signature in _of_column(then, now, rules)]
    share = copies.share(repeated)
    if share > rules.max_duplicates:
        text = f"{share:.0%} of rows repeat another row (limit {rules.max_duplicates:.0%}): a delivery or a join twice"
        found.append(Signature("duplicated_rows", "", text))
    return (*found, *_swapped(pairs))


def _of_column(then: Sketch, now: Sketch, rules: DriftRules) -> Iterator[Signature]:
    """What one column shows, the most telling first; later ones would only repeat it."""
    text = ""
    if (change := measures.type_change(then, now)) > rules.max_unseen_share:
        yield Signature("type", then.name, f"{change:.1%} of rows hold something that is no number")
    elif _emptied(then, now, rules):
        text = f"missing values rose by {100 * measures.missing_change(then, now):.1f} points"
        yield Signature("nulls", then.name, text)
    if sum(now.counts) < MIN_VALUES or not sum(then.counts):
        return
    if text := _constant(then, now):
        yield Signature("constant", then.name, text)
    elif (then.kind == "categorical" or _discrete(then)) and (text := _encoding(then, now, rules)):
        yield Signature("encoding", then.name, text)
    if not text and then.kind == "numeric":
        if text := _scale(then, now):
            yield Signature("scale", then.name, text)
        elif text := _sign(then, now):
            yield Signature("sign", then.name, text)


def _emptied(then: Sketch, now: Sketch, rules: DriftRules) -> bool:
    if now.n and now.missing == now.n:
        return then.missing < then.n
    rise = measures.missing_change(then, now)
    return rise > rules.max_missing_change and measures.missing_by_chance(then, now) < RARE


def _constant(then: Sketch, now: Sketch) -> str:
    """The one value of the window, where the reference would hardly give it every time."""
    if then.kind == "numeric":
        if now.low is None or now.low != now.high or then.low == then.high:
            return ""
        value, at = f"{now.low:g}", int(np.searchsorted(then.edges, now.low, side="right"))
    else:
        at = int(np.argmax(now.counts))
        if now.counts[at] != sum(now.counts) or at == len(now.counts) - 1:  # the last holds whatever is unknown
            return ""
        value = repr(now.categories[at])
    usual = then.counts[at] / sum(then.counts)
    return f"every value is {value}" if usual ** sum(now.counts) < RARE else ""


def _discrete(sketch: Sketch) -> bool:
    """Whether every value of the reference has a bin of its own, so that both outer bins are empty."""
    return sketch.counts[0] == 0 and sketch.counts[-1] == 0


def _encoding(then: Sketch, now: Sketch, rules: DriftRules) -> str:
    """Known values gone and unknown ones in their place; a new value that only takes its share is none."""
    a, b = np.array(then.counts) / sum(then.counts), np.array(now.counts) / sum(now.counts)
    unseen = float(b[a == 0].sum())
    if unseen <= rules.max_unseen_share:
        return ""
    gone = float(a[(a >= 0.01) & (b < a / 10)].sum())
    if unseen <= 0.5 and gone < 0.75 * unseen:
        return ""
    return f"{unseen:.1%} of values are unknown and take the place of known ones that are gone ({gone:.1%})"


def apart(a: Sketch, b: Sketch) -> float:
    """KS distance of the finite numbers of two columns; 1 if either has none."""
    one, other = measures.distribution(a), measures.distribution(b)
    return _ks(one, other, math.inf, 1.0) if one[0].size and other[0].size else 1.0


def _ks(one: Knots, other: Knots, top: float, factor: float, slack: float = 0.0) -> float:
    """KS distance of the parts below `top`, which is of the other's values; these are divided by a positive factor.

    Values count as equal within the relative `slack`, as in Lévy's distance: far from the reference's bins the other is
    only known by its cells.
    """
    (x, f), (z, g) = one, (other[0] / factor, other[1])
    end = min(top / factor, max(float(x[-1]), float(z[-1])))
    knots = np.union1d(x, z)
    knots = np.append(knots[knots < end], end)
    upto, total = np.interp(end, x, f), np.interp(end, z, g)
    if not upto or not total:
        return 1.0
    below, above = (np.interp(np.minimum(knots + s * slack * np.abs(knots), end), x, f) / upto for s in (-1, 1))
    there = np.interp(knots, z, g) / total
    return float(np.maximum(below - there, there - above).max())


def _scale(then: Sketch, now: Sketch) -> str:
    """The factor of units between two columns of the same shape: their medians' ratio, or that of their upper ends.

    Compared is what lies below the window's largest values, since a range that refuses or caps the others cuts there.
    """
    if apart(then, now) < APART or now.high is None:
        return ""
    one, other = measures.distribution(then), measures.distribution(now)
    top = (1 - NEAR) * now.high if now.high > 0 else math.inf
    for factor in (value for f in FACTORS for value in (float(f), 1 / f)):
        kept = [float(np.interp(end, *side)) for end, side in ((top / factor, one), (top, other))]
        if kept[0] < one[1][-1] / 2 or kept[1] < other[1][-1] / 2:
            continue
        for share in (0.5, 0.9):
            old, new = (float(np.interp(share * k, below, x)) for k, (x, below) in zip(kept, (one, other), strict=True))
            if old * new <= 0 or abs(math.log(new / old / factor)) > NEAR:
                continue
            if _ks(one, other, top, factor, NEAR) < SAME:
                times = f"{factor:g} times" if factor > 1 else f"1/{1 / factor:g} of"
                return f"values are {times} what they were, with the same shape: another unit"
    return ""


def _sign(then: Sketch, now: Sketch) -> str:
    """Values below a bound of zero that the reference's values crowd at: times from the future, a sign lost."""
    x, below = measures.distribution(now)
    z, before = measures.distribution(then)
    if not x.size or not z.size or then.low is None or then.low < 0:
        return ""
    crowd = float(np.interp(measures.deviation(then) / 4, z, before) / before[-1])
    negative = float(np.interp(0.0, x, below) / below[-1])
    if crowd < 0.02 or negative < 0.01:
        return ""
    return f"{negative:.1%} of values are below zero, where none was: a clock that is ahead, or a sign"


def _swapped(pairs: list[tuple[Sketch, Sketch]]) -> Iterator[Signature]:
    """Pairs of columns each of which looks like the other's past and not like its own."""
    moved = [(then, now) for then, now in pairs if then.kind == "numeric" and apart(then, now) > APART]
    for (a, x), (b, y) in combinations(moved, 2):
        if apart(a, y) < SAME and apart(b, x) < SAME and apart(a, b) > APART:
            yield Signature("swapped", a.name, f"{a.name} looks like {b.name} did, and {b.name} like {a.name}")
