"""Rows that are answered together or not at all: nothing of a call is journalled before its last row is decided."""

from bentos.runtime.answers import Answer, Results, RowError, column, errors


class Together:
    """One call whose rows may be spread over batches; `version` is the only model version that may answer it."""

    def __init__(self, rows: int, *, version: str | None = None) -> None:
        self.left, self.version, self.failed = rows, version, False
        self._answered: list[Results] = []
        self._lines: list[bytes] = []

    def take(self, results: Results, lines: list[bytes], *, hidden: bool) -> tuple[list[Results], list[bytes]]:
        """Add decided rows; what counts and the lines of the whole call once it is complete, else nothing.

        A call with an error is never complete; `hidden` answers are journalled and do not count.
        """
        self.left -= len(results)
        if self.failed or errors(results):
            self.failed = True
            self._answered, self._lines = [], []
            return [], []
        self._answered += [] if hidden else [results]
        self._lines += lines
        return ([], []) if self.left else (self._answered, self._lines)

    def checked(self, results: Results) -> Results:
        """The results, each an error instead if another version answered than was asked for."""
        if self.version is None or {self.version}.issuperset(column(results, "model_version")):
            return results
        return [r if isinstance(r, RowError) or r.model_version == self.version else self._gone(r) for r in results]

    def _gone(self, answer: Answer) -> RowError:
        return RowError(503, f"version {self.version} gave way to {answer.model_version} meanwhile; ask again")
