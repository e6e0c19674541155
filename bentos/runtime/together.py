"""Rows that are answered together or not at all: nothing of a call is journalled before its last row is decided."""

from collections.abc import Mapping, Sequence
from typing import Any

from bentos.runtime.answers import Answer, RowError


class Together:
    """One call whose rows may be spread over batches; `version` is the only model version that may answer it."""

    def __init__(self, rows: int, *, version: str | None = None) -> None:
        self.left, self.version, self.failed = rows, version, False
        self._taken: list[tuple[Answer, bytes, bool]] = []

    def take(self, result: Answer | RowError, line: bytes, hidden: bool) -> Sequence[tuple[Answer, bytes, bool]]:
        """Add a decided row; all of the call's answers once that was the last one and none has failed, else nothing."""
        self.left -= 1
        if isinstance(result, RowError):
            self.failed = True
        if isinstance(result, RowError) or self.failed:
            self._taken.clear()
            return ()
        self._taken.append((result, line, hidden))
        return () if self.left else self._taken

    def checked(self, result: Answer | RowError) -> Answer | RowError:
        """The result, or an error if another version answered than was asked for."""
        if isinstance(result, RowError) or self.version in (None, result.model_version):
            return result
        return RowError(503, f"version {self.version} gave way to {result.model_version} meanwhile; ask again")


def settle(
    calls: Sequence[Together | None],
    results: Sequence[Answer | RowError],
    line_of: Mapping[str, bytes],
    hidden: Sequence[bool],
) -> tuple[list[Answer | RowError], list[bytes], list[Answer]]:
    """Of one batch: the results, the journal's lines to write now, and which answers those are, smoke tests apart.

    `line_of` has each answer's line by its request id.
    """
    checked: list[Answer | RowError] = []
    ready: list[tuple[Answer, bytes, bool]] = []
    for call, result, smoke in zip(calls, results, hidden, strict=True):
        if call is not None:
            result = call.checked(result)
        checked.append(result)
        line = b"" if isinstance(result, RowError) else line_of[result.request_id]
        if call is not None:
            ready += call.take(result, line, smoke)
        elif isinstance(result, Answer):
            ready.append((result, line, smoke))
    return checked, [line for _, line, _ in ready], [answer for answer, _, smoke in ready if not smoke]


def row_lines(decided: Sequence[Any], written: bytes) -> dict[str, bytes]:
    """The journal's line of each answer, by request id; `written` has them in the answers' order."""
    ids = [result.request_id for result in decided if isinstance(result, Answer)]
    return dict(zip(ids, written.splitlines(keepends=True), strict=True))
