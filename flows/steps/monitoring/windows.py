"""Windows: everything that a check keeps of a stretch of answers; a window's is the sum of its parts'."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from bentos.runtime.monitoring import copies, grid, sketches
from bentos.runtime.monitoring.copies import Copies
from bentos.runtime.monitoring.measures import Sketch
from flows.steps.monitoring import estimates

SCORE = "score"  # the column of answers that quality is estimated from
ENTITY, NAMELESS = "entity", "None"  # the column of identities that names the entity, and what it says without one
CELLS = ("scores", "copies", "entities")


@dataclass(frozen=True, kw_only=True)
class Window:
    """Sketches of the columns in the reference's bins, scores in cells of log odds, samples of repeated rows and keys.

    `entities` samples how many rows each named entity has.
    """

    sketches: tuple[Sketch, ...]
    scores: estimates.Scores = ()
    copies: Copies = ()
    entities: Copies = ()

    @property
    def repeats(self) -> float:
        """How many rows the entity of a row has, on average over the rows (Kish 1965: sum of squares by sum)."""
        rows = [n for _, n in self.entities]
        return sum(n * n for n in rows) / sum(rows) if rows else 1.0


def count(frame: pd.DataFrame, reference: tuple[Sketch, ...], identity: pd.DataFrame | None = None) -> Window:
    """A frame's rows counted; `identity` [rows] are further columns by which rows count as the same or not."""
    rows = frame if identity is None else pd.concat([identity.reset_index(drop=True), frame], axis=1)
    return Window(
        sketches=sketches.bin_counts(frame, reference),
        scores=estimates.count(frame[SCORE]) if SCORE in frame else (),
        copies=copies.sample(rows),
        entities=_entities(identity),
    )


def _entities(identity: pd.DataFrame | None) -> Copies:
    """The sample of the entities' rows; those that named none stand alone, so they are left out."""
    if identity is None or ENTITY not in identity:
        return ()
    return copies.sample(identity.loc[identity[ENTITY] != NAMELESS, [ENTITY]])


def merge(parts: Sequence[Window]) -> Window:
    """One window of all parts' rows, each counted with the same reference; empty for no part."""
    scores: grid.Cells = ()
    for part in parts:
        scores = grid.add(scores, part.scores)
    return Window(
        sketches=sketches.merge([part.sketches for part in parts]),
        scores=scores,
        copies=copies.merge([part.copies for part in parts]),
        entities=copies.merge([part.entities for part in parts]),
    )


def to_json(window: Window) -> str:
    """Canonical JSON: sorted keys, no NaN."""
    columns = json.loads(sketches.to_json(window.sketches))
    cells = {name: getattr(window, name) for name in CELLS}
    return json.dumps({"columns": columns, **cells}, sort_keys=True)


def from_json(text: str | bytes) -> Window:
    """The window that `to_json` wrote; ValueError if it is none."""
    try:
        raw = json.loads(text)
        columns = sketches.from_json(json.dumps(raw["columns"]))
        # what was counted before entities were is still read
        pairs = {key: tuple((int(i), int(n)) for i, n in raw.get(key, ())) for key in CELLS}
        return Window(sketches=columns, **pairs)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a window: {error!r}") from error
