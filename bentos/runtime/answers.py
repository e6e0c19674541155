"""What comes back for a row: an answer, or an error that is the row's own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import orjson


class Answer(NamedTuple):
    """A decision on one entity, with what it was decided on and by which release; a tuple, as one is made per row."""

    request_id: str
    entity: str
    key: int | str | None
    probability: float
    risk: str
    event_time: datetime | None
    stale: bool
    model_version: str
    release: str
    arm: str
    encoded: bytes  # as JSON, as it leaves

    @property
    def features(self) -> dict[str, float | None]:
        """The values used by name, None where missing."""
        features: dict[str, float | None] = self.dump()["features"]
        return features

    def dump(self) -> dict[str, Any]:
        """The answer as JSON objects have it; the key stands under the entity's own name."""
        answer: dict[str, Any] = orjson.loads(self.encoded)
        return answer


@dataclass(frozen=True, slots=True)
class RowError:
    """Why a row has no answer: an HTTP status, a sentence and, where it helps, the field or entity it is about."""

    status: int
    error: str
    detail: dict[str, Any] = field(default_factory=dict)

    def dump(self) -> dict[str, Any]:
        """The error as JSON objects have it."""
        return {"error": self.error, **self.detail}


GAP = "\x00"
Column = Sequence[bytes] | bytes  # the JSON of each row, or of all


class Form:
    """JSON lines that differ in a few places: the places are filled for a whole batch at once.

    A line costs a microsecond or two, a tenth of what encoding one dict per row does.
    """

    def __init__(self, value: dict[str, Any]) -> None:
        """`value` has GAP wherever rows may differ."""
        line = orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
        self._parts = line.replace(b"%", b"%%").split(orjson.dumps(GAP))

    def fill(self, columns: Sequence[Column]) -> bytes:
        """The lines, each with its end; a column holds the JSON of one gap, of every row or one for all of them."""
        line, places = [self._parts[0]], []
        for column, part in zip(columns, self._parts[1:], strict=True):
            if isinstance(column, bytes):
                line += [column.replace(b"%", b"%%"), part]
            else:
                line += [b"%b", part]
                places.append(column)
        rows, width = len(places[0]), len(places)
        filled = [b""] * (rows * width)
        for j, column in enumerate(places):
            filled[j::width] = column
        return (b"".join(line) * rows) % tuple(filled)


def texts(values: Sequence[Any]) -> list[bytes]:
    """The JSON of each value."""
    if not {int, float}.issuperset(map(type, values)):
        return [orjson.dumps(v) for v in values]
    return orjson.dumps(values)[1:-1].split(b",")
