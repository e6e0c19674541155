"""A batch: rows of several calls decided at once, and what of them is journalled and counted."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bentos.runtime.answers import Results, errors
from bentos.runtime.scoring.decided import Decided
from bentos.runtime.scoring.inputs import Fields
from bentos.runtime.together import Together

MANY = 64  # rows of a call: fewer are decided together with those of other calls


class Asked(NamedTuple):
    """What a caller said of its rows: the arm that it named or "", is it a smoke test, are they answered together."""

    arm: str = ""
    smoke: bool = False
    together: Together | None = None


Part = tuple[Sequence[Fields], Asked]
Piece = tuple[Sequence[int], Results]  # places of rows, rising, and what one arm decided of them


@dataclass
class Batch:
    """The results of each part, the lines for the journal, the answers that count, and the statuses of errors."""

    results: list[Results]
    lines: list[bytes] = field(default_factory=list)
    counted: list[Results] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)


def decide(
    parts: Sequence[Part],
    assign: Callable[[Sequence[Fields], Sequence[str]], Sequence[str]],
    decided: Callable[[str, Sequence[Fields], Sequence[bool]], Results],
) -> Batch:
    """The batch of these parts; `assign` gives each row its arm, `decided` what an arm makes of rows."""
    batch = Batch([()] * len(parts))
    for group in _groups(parts):
        chosen = [parts[i] for i in group]
        rows = chosen[0][0] if len(group) == 1 else [row for some, _ in chosen for row in some]
        smoke = [value for some, asked in chosen for value in [asked.smoke] * len(some)]
        arms = assign(rows, [value for some, asked in chosen for value in [asked.arm] * len(some)])
        pieces = list(_pieces(rows, arms, smoke, decided))
        if any(asked.together for _, asked in chosen):
            _bound(batch, group, parts, pieces)
        else:
            _free(batch, group, parts, pieces, smoke)
    return batch


def _groups(parts: Sequence[Part]) -> Iterator[list[int]]:
    """The parts that are decided at once: a call of many rows alone, as one block of columns, the others together."""
    many = [i for i, (rows, _) in enumerate(parts) if len(rows) >= MANY]
    if len(many) < len(parts):
        yield [i for i in range(len(parts)) if i not in many]
    yield from ([i] for i in many)


def _pieces(
    rows: Sequence[Fields],
    arms: Sequence[str],
    smoke: Sequence[bool],
    decided: Callable[[str, Sequence[Fields], Sequence[bool]], Results],
) -> Iterator[Piece]:
    different = set(arms)
    for arm in sorted(different):
        if len(different) == 1:
            yield range(len(rows)), decided(arm, rows, smoke)
        else:
            chosen = [i for i, name in enumerate(arms) if name == arm]
            yield chosen, decided(arm, [rows[i] for i in chosen], [smoke[i] for i in chosen])


def _free(batch: Batch, group: list[int], parts: Sequence[Part], pieces: list[Piece], smoke: Sequence[bool]) -> None:
    """Rows that are answered each for itself: one line of the journal for all of an arm."""
    for places, results in pieces:
        batch.lines.append(_record(results))
        batch.statuses += [error.status for error in errors(results).values()]
        hidden = any(smoke) and any(smoke[i] for i in places)
        batch.counted.append([r for i, r in zip(places, results, strict=True) if not smoke[i]] if hidden else results)
    whole = _merged(pieces)
    if len(whole) >= MANY and len(group) == 1:
        batch.results[group[0]] = whole
        return
    start, whole = 0, list(whole)
    for i in group:
        stop = start + len(parts[i][0])
        batch.results[i] = whole[start:stop]
        start = stop


def _bound(batch: Batch, group: list[int], parts: Sequence[Part], pieces: list[Piece]) -> None:
    """Rows some of which are answered together: each call has lines of its own, which may have to wait."""
    start = 0
    for i in group:
        rows, asked = parts[i]
        stop = start + len(rows)
        cuts = [cut for piece in pieces if len((cut := _cut(piece, start, stop))[0])]
        lines, results = [_record(part) for _, part in cuts], _merged(cuts)
        counted = [] if asked.smoke else [results]
        if asked.together is not None:
            results = asked.together.checked(results)
            counted, lines = asked.together.take(results, lines, hidden=asked.smoke)
        batch.results[i] = results
        batch.statuses += [error.status for error in errors(results).values()]
        batch.lines += lines
        batch.counted += counted
        start = stop


def _cut(piece: Piece, start: int, stop: int) -> Piece:
    """What is of the rows from start to stop, by their places there."""
    places, results = piece
    low, high = bisect_left(places, start), bisect_left(places, stop)
    return [place - start for place in places[low:high]], results[low:high]


def _merged(pieces: Sequence[Piece]) -> Results:
    """The results in the rows' order."""
    if len(pieces) == 1:
        return pieces[0][1]
    at = {place: result for places, results in pieces for place, result in zip(places, results, strict=True)}
    return [at[place] for place in range(len(at))]


def _record(results: Results) -> bytes:
    return results.record() if isinstance(results, Decided) else b""
