"""Rows that are answered together or not at all: nothing of a call is journalled before its last row is decided."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from bentos.runtime.answers import Answer, RowError

Decided = tuple[list[Answer | RowError], bytes]  # each row's answer or error, the journal's lines of the answers


class Together:
    """One call whose rows may be spread over batches; `version` is the only model version that may answer it."""

    def __init__(self, rows: int, *, version: str | None = None) -> None:
        self.left, self.version, self.failed = rows, version, False
        self._answers: list[Answer] = []
        self._lines: list[bytes] = []

    def take(self, results: Sequence[Answer | RowError], lines: bytes, *, hidden: bool) -> tuple[list[Answer], bytes]:
        """Add decided rows; the answers that count and the lines of the whole call once it is complete, else nothing.

        A call with an error is never complete; `hidden` answers are journalled and do not count.
        """
        self.left -= len(results)
        answers = [result for result in results if type(result) is Answer]
        if self.failed or len(answers) < len(results):
            self.failed = True
            self._answers, self._lines = [], []
            return [], b""
        self._answers += [] if hidden else answers
        self._lines.append(lines)
        return ([], b"") if self.left else (self._answers, b"".join(self._lines))

    def checked(self, results: Sequence[Answer | RowError]) -> list[Answer | RowError]:
        """The results, each an error instead if another version answered than was asked for."""
        if self.version is None:
            return list(results)
        return [r if isinstance(r, RowError) or r.model_version == self.version else self._gone(r) for r in results]

    def _gone(self, answer: Answer) -> RowError:
        return RowError(503, f"version {self.version} gave way to {answer.model_version} meanwhile; ask again")


def settle(
    calls: Sequence[Together | None],
    results: Sequence[Answer | RowError],
    hidden: Sequence[bool],
    parts: Sequence[Decided],
) -> tuple[list[Answer | RowError], list[bytes], list[Answer]]:
    """Of one batch: the results, the journal's lines to write now, and which answers count.

    `parts` are what each arm decided; a call's rows stand side by side in a batch.
    """
    runs = list(_runs(calls))
    whole = len(runs) == 1 and len(parts) == 1  # then the lines need no parting
    line_of = {} if whole else {name: line for part in parts for name, line in _row_lines(*part)}
    checked: list[Answer | RowError] = []
    lines: list[bytes] = []
    answers: list[Answer] = []
    for start, stop in runs:
        call, run = calls[start], list(results[start:stop])
        written = parts[0][1] if whole else b"".join([line_of[r.request_id] for r in run if type(r) is Answer])
        if call is not None:
            run = call.checked(run)
            given, written = call.take(run, written, hidden=hidden[start])
        else:
            given = [r for r, smoke in zip(run, hidden[start:stop], strict=True) if type(r) is Answer and not smoke]
        checked += run
        lines.append(written)
        answers += given
    return checked, lines, answers


def _runs(calls: Sequence[Together | None]) -> Iterator[tuple[int, int]]:
    """Where the rows of one call after the other begin and end."""
    at = 0
    for _, run in groupby(calls, id):
        start, at = at, at + sum(1 for _ in run)
        yield start, at


def _row_lines(decided: Sequence[Answer | RowError], written: bytes) -> Iterator[tuple[str, bytes]]:
    """The journal's line of each answer, by request id; `written` has them in the answers' order."""
    ids = [result.request_id for result in decided if isinstance(result, Answer)]
    return zip(ids, written.splitlines(keepends=True), strict=True)
