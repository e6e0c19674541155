"""What comes back for a row: an answer, or an error that is the row's own."""

from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import orjson


class Answer(NamedTuple):
    """A decision on one entity, with what it was decided on and by which release; a tuple, as one is made per row."""

    request_id: str
    entity: str
    key: int | str
    probability: float
    risk: str
    names: list[str]
    values: list[float]  # NaN where missing
    event_time: datetime | None
    stale: bool
    model_version: str
    release: str
    arm: str
    encoded: bytes  # as JSON, as it leaves

    @property
    def features(self) -> dict[str, float | None]:
        """The values used by name, None where missing."""
        return {n: None if v != v else v for n, v in zip(self.names, self.values, strict=True)}

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


class Form:
    """The JSON of one release's answers on one arm, and of their journal records, with a gap for what differs by row.

    Filling a gap costs a tenth of encoding a dict, and the features are encoded once for both.
    """

    def __init__(self, *, entity: str, model_version: str, release: str, arm: str, threshold: float) -> None:
        served = {"model_version": model_version, "release": release, "arm": arm}
        self.answer = _template(
            {
                "request_id": GAP,
                entity: GAP,
                "probability": GAP,
                "risk": GAP,
                "features": GAP,
                "event_time": GAP,
                "stale": GAP,
                **served,
            }
        )
        self.record = _template(
            {
                "request_id": GAP,
                "entity": GAP,
                "score": GAP,
                "decision": GAP,
                "features": GAP,
                "event_time": GAP,
                "source": GAP,
                "state": GAP,
                "smoke": GAP,
                "time": GAP,
                "wall": GAP,
                "threshold": threshold,
                **served,
            }
        )


GAP = "\x00"


def _template(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value).replace(b"%", b"%%").replace(orjson.dumps(GAP), b"%b")


@lru_cache(maxsize=4096)
def encoded_time(time: datetime | None) -> bytes:
    """A time as JSON."""
    return orjson.dumps(None if time is None else time.isoformat())
