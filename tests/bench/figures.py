"""What a benchmark found: figures with their spread, printed as a table and merged into <home>/bench.json."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from dataclasses import replace as replaced
from pathlib import Path

from bentos.runtime.home import replace


@dataclass(frozen=True)
class Figure:
    """One number: `baseline` is what it was divided by or compared with, `spread` the lowest and highest round."""

    name: str
    value: float
    unit: str
    baseline: float | None
    spread: tuple[float, float]


def ratio(name: str, ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """Median over rounds of ours/theirs, each round on its own, since other load changes both."""
    rounds = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Figure(name, statistics.median(rounds), "x", round(statistics.median(theirs), 4), (min(rounds), max(rounds)))


def plain(name: str, values: Sequence[float], unit: str) -> Figure:
    """Median of one target's rounds."""
    return Figure(name, statistics.median(values), unit, None, (min(values), max(values)))


def compared(name: str, values: Sequence[float], baseline: Sequence[float] | None, unit: str) -> Figure:
    """Median of one target's rounds beside that of another's, in the same unit."""
    found = plain(name, values, unit)
    return found if baseline is None else replaced(found, baseline=round(statistics.median(baseline), 4))


def table(figures: Sequence[Figure]) -> str:
    """The figures as a person reads them."""
    width = max(len(f.name) for f in figures)
    return "\n".join(
        f"{f.name:<{width}}  {f.value:>12,.3f} {f.unit:<6} ({f.spread[0]:,.3f} to {f.spread[1]:,.3f})"
        + ("" if f.baseline is None else f"  baseline {f.baseline:,.3f}")
        for f in figures
    )


def merge(path: Path, figures: Sequence[Figure]) -> None:
    """Put figures into the file's list; those of the same name are replaced, all others stay."""
    before = json.loads(path.read_text()) if path.is_file() else []
    names = {f.name for f in figures}
    kept = [f for f in before if f["name"] not in names]
    replace(path, json.dumps([*kept, *map(asdict, figures)], indent=1).encode())
