"""What comes back for a row: an answer, or an error that is the row's own."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """A decision on one entity, with what it was decided on and by which release."""

    request_id: str
    entity: str
    key: int | str
    probability: float
    risk: str
    features: dict[str, float | None]
    event_time: datetime | None
    stale: bool
    model_version: str
    release: str
    arm: str

    def dump(self) -> dict[str, Any]:
        """The answer as JSON objects have it; the key stands under the entity's own name."""
        return {
            "request_id": self.request_id,
            self.entity: self.key,
            "probability": self.probability,
            "risk": self.risk,
            "features": self.features,
            "event_time": None if self.event_time is None else self.event_time.isoformat(),
            "stale": self.stale,
            "model_version": self.model_version,
            "release": self.release,
            "arm": self.arm,
        }


@dataclass(frozen=True, slots=True)
class RowError:
    """Why a row has no answer: an HTTP status, a sentence and, where it helps, the field or entity it is about."""

    status: int
    error: str
    detail: dict[str, Any] = field(default_factory=dict)

    def dump(self) -> dict[str, Any]:
        """The error as JSON objects have it."""
        return {"error": self.error, **self.detail}
