"""What a use case declares of its retraining: who decides, how often at most, and when a training is not worth it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """Whether and how often models are trained that nobody asked for: on drift, on fallen quality, on schedule.

    `auto` trains, `ask` pauses the run until a person has answered, and takes silence for a no, `never` only records
    that it would have trained. A person's own training is held up by none of this. How often the schedule trains,
    daily, weekly or monthly, is declared in prefect.yaml.
    """

    policy: Literal["auto", "ask", "never"] = "auto"
    answer_hours: float = 12.0  # that a question waits for an answer; the worker keeps a place for the run meanwhile
    budget: int = 3  # automatic trainings in any 7 days
    breaker: int = 3  # rejected candidates in a row after which only a person trains
    quiet_days: int = 7  # after a training was declined, until the same or a lesser severity may ask again
    probe: Literal["off", "benign", "all"] = "benign"  # what a training must not be for if a quick fit says it is vain
    probe_rows: int = 50_000  # the newest training rows that the quick fit is made on
    min_probe_rows: int = 500  # newer than anything the champion has seen
    medium: float = 0.05  # loss of quality against what the gates promised, relative
    high: float = 0.10
    notice_minutes: float = 30.0  # after an event without a run of `train`, until a check says so

    def __post_init__(self) -> None:
        if self.policy not in ("auto", "ask", "never"):
            raise ValueError(f"policy {self.policy!r} of retraining; known: auto, ask, never")
        if self.probe not in ("off", "benign", "all"):
            raise ValueError(f"probe {self.probe!r} of retraining; known: off, benign, all")
        if self.budget < 1 or self.breaker < 1:
            raise ValueError(
                f"budget {self.budget}, breaker {self.breaker} of retraining; give at least 1, or policy='never' to "
                "stop trainings"
            )
        if not 0 < self.medium <= self.high:
            raise ValueError(f"medium {self.medium}, high {self.high} of retraining; give 0 < medium <= high")
        if self.answer_hours <= 0:
            raise ValueError(f"answer_hours {self.answer_hours} of retraining; give more than 0")
