"""What comes back for a row: an answer, or an error that is the row's own."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate, chain
from typing import Any, NamedTuple, overload

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


Results = Sequence[Answer | RowError]  # of the rows of a call, or of a part of one, in order


class Columnar(Sequence[Answer | RowError]):
    """Results that are kept by column and become an object per row only where one is asked for."""

    __slots__ = ()

    @property
    @abstractmethod
    def errors(self) -> dict[int, RowError]:
        """Why rows have no answer, by place."""

    @abstractmethod
    def column(self, name: str) -> Sequence[Any]:
        """One field of all answers."""

    @abstractmethod
    def encoded(self) -> bytes:
        """The JSON list of all answers."""


class Parts(Columnar):
    """The results of a call whose rows were decided in several batches."""

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[Results]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @overload
    def __getitem__(self, at: int) -> Answer | RowError: ...
    @overload
    def __getitem__(self, at: slice) -> Results: ...
    def __getitem__(self, at: int | slice) -> Answer | RowError | Results:
        """A row's result, or those of some rows."""
        return list(self)[at]

    def __iter__(self) -> Iterator[Answer | RowError]:
        return chain.from_iterable(self.parts)

    @property
    def errors(self) -> dict[int, RowError]:
        """Why rows have no answer, by place in the call."""
        starts = accumulate(map(len, self.parts), initial=0)
        return {at + i: e for at, part in zip(starts, self.parts, strict=False) for i, e in errors(part).items()}

    def column(self, name: str) -> Sequence[Any]:
        """One field of all answers."""
        return [value for part in self.parts for value in column(part, name)]

    def encoded(self) -> bytes:
        """The JSON list of all answers."""
        return b"[%b]" % b",".join(filter(None, [encoded(part)[1:-1] for part in self.parts]))


def join(parts: Sequence[Results]) -> Results:
    """The results of a call from those of its parts, in order."""
    return parts[0] if len(parts) == 1 else Parts(parts)


def _columnar(results: Results) -> Columnar | None:
    """The results if they are kept by column; asking a list for its type costs a tenth of asking an abstract class."""
    return results if type(results) is not list and isinstance(results, Columnar) else None


def column(results: Results, name: str) -> Sequence[Any]:
    """One field of all answers among results."""
    if (kept := _columnar(results)) is not None:
        return kept.column(name)
    return [getattr(result, name) for result in results if isinstance(result, Answer)]


def errors(results: Results) -> dict[int, RowError]:
    """The errors among results by place."""
    if (kept := _columnar(results)) is not None:
        return kept.errors
    return {i: result for i, result in enumerate(results) if isinstance(result, RowError)}


def encoded(results: Results) -> bytes:
    """The JSON list of all answers among results."""
    if (kept := _columnar(results)) is not None:
        return kept.encoded()
    return b"[%b]" % b",".join([result.encoded for result in results if isinstance(result, Answer)])
