"""Given values: the features that rows bring with them, checked and put into a batch's matrices."""

import math
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from msgspec.structs import astuple

from bentos.runtime.answers import RowError
from bentos.runtime.scoring.categories import MAX_TEXT, NOT_FOUND, Categories, Texts
from bentos.runtime.scoring.model import Floats
from bentos.runtime.scoring.wire import Values

NUMBERS, TEXTS = frozenset({float, int, type(None)}), frozenset({str, type(None)})


class Given:
    """What a row that brings its features has to bring for one release."""

    def __init__(self, names: Sequence[str], categories: Categories) -> None:
        self.names, self.categories = names, categories
        self.numbers = [names[j] for j in categories.numbers]
        self._kinds = [TEXTS if j in categories.columns else NUMBERS for j in range(len(names))]
        self._odd = [_not_a_text if j in categories.columns else not_a_number for j in range(len(names))]
        pick = itemgetter(*names)
        self._pick: Callable[[Mapping[str, Any]], tuple[Any, ...]] = (
            pick if len(names) > 1 else lambda given: (pick(given),)
        )

    def picked(self, features: Mapping[str, Any] | Values) -> RowError | tuple[Any, ...]:
        """The values that a row brings, in order, or what is wrong with their names and types."""
        if isinstance(features, Values):
            features = dict(zip(features.order.names, astuple(features), strict=True))
        try:
            values = self._pick(features)
        except KeyError:
            return self._named(features)
        if len(features) != len(values):
            return self._named(features)
        return values if self._typed(values) else self._wrong(values) or values

    def _typed(self, values: Sequence[Any]) -> bool:
        """Whether a row's values are of the right types."""
        return all(map(frozenset.__contains__, self._kinds, map(type, values)))

    def _wrong(self, values: Sequence[Any]) -> RowError | None:
        """What is wrong with the first of a row's values that is no number, or no text where the feature is one."""
        for j, name in zip(self.categories.columns, self.categories.names, strict=True):
            if (reason := _not_a_text(values[j])) is not None:
                return RowError(
                    422,
                    f"feature {name} is {reason}; give a text, or null if it is missing",
                    {"field": f"features.{name}"},
                )
        return self._not_numbers([values[j] for j in self.categories.numbers])

    def _named(self, given: Mapping[str, Any]) -> RowError:
        names = self.names
        unknown = [name for name in given if name not in set(names)]
        lacking = [name for name in names if name not in given]
        problem = f"unknown: {', '.join(unknown)}" if unknown else f"missing: {', '.join(lacking)}"
        return RowError(
            422,
            f"features must be exactly {', '.join(names)}; {problem}",
            {"field": f"features.{(unknown or lacking)[0]}"},
        )

    def _not_numbers(self, values: Sequence[Any]) -> RowError | None:
        for name, value in zip(self.numbers, values, strict=True):
            if (reason := not_a_number(value)) is not None:
                return RowError(
                    422,
                    f"feature {name} is {reason}; give a number, or null if it is missing",
                    {"field": f"features.{name}"},
                )
        return None

    def put(
        self,
        found: list[Any],
        values: Floats,
        texts: Texts,
        given: list[tuple[Any, ...]],
        given_at: Sequence[int],
    ) -> None:
        """Put given values into the matrix, null as NaN; refuse what was given as NaN, infinite or beyond float64."""
        if self.categories.columns:
            self._put_mixed(found, values, texts, given, given_at)
            return
        odd: Sequence[int] = range(len(given))
        try:
            x = np.array(given, dtype=np.float64)
            values[given_at] = x
            lacking = (~np.isfinite(x)).sum(axis=1).tolist()
            odd = [i for i, n in enumerate(lacking) if n and given[i].count(None) != n]
        except OverflowError:  # an integer too large for a float
            for at, row in zip(given_at, given, strict=True):
                values[at] = [math.nan if not_a_number(v) else v for v in row]
        for at in odd:
            found[given_at[at]] = self._not_numbers(given[at]) or found[given_at[at]]

    def matrices(self, features: Sequence[Values]) -> tuple[Floats, Texts] | None:
        """Coded values and texts of features of the right names and types; None if a number or text is too large.

        A number that came over the wire is finite, so what is not in the matrix was null.
        """
        columns: list[Sequence[Any]] = list(zip(*map(astuple, features), strict=True))
        try:
            x = np.array([columns[j] for j in self.categories.numbers], dtype=np.float64)
        except OverflowError:  # an integer too large for a float
            return None
        return self._coded(len(features), x, columns)

    def arrays(self, columns: Sequence[Any]) -> tuple[Floats, Texts] | None:
        """The same of a table's columns, whose numbers are arrays with NaN where missing."""
        x = np.array([columns[j] for j in self.categories.numbers], dtype=np.float64)
        return self._coded(len(columns[0]), x, columns)

    def _coded(self, n: int, x: Floats, columns: Sequence[Sequence[Any]]) -> tuple[Floats, Texts] | None:
        """Coded values and texts of n rows from the numbers [numbers, n], NaN where missing, and the texts' columns.

        None if a number is infinite or a text is none that a request may bring.
        """
        if np.isinf(x).any():
            return None
        texts = np.empty((n, len(self.categories.columns)), dtype=object)
        if not self.categories.columns:
            return x.T, texts
        values = np.empty((len(columns), n))
        values[self.categories.numbers] = x
        for c, j in enumerate(self.categories.columns):
            try:
                codes = self.categories.codes(c, columns[j])
            except TypeError:  # a list or an object
                return None
            if (codes == NOT_FOUND).any() and not _plain_texts(columns[j]):
                return None
            texts[:, c], values[j] = columns[j], codes
        return values.T, texts

    def _put_mixed(
        self,
        found: list[Any],
        values: Floats,
        texts: Texts,
        given: list[tuple[Any, ...]],
        given_at: Sequence[int],
    ) -> None:
        """The same by column where some are texts: these into their own matrix, their codes among the numbers."""
        columns: list[Sequence[Any]] = list(zip(*given, strict=True))
        rows: Any = slice(None) if len(given) == len(values) else given_at
        sound = all(_plain_texts(columns[j]) for j in self.categories.columns)
        try:
            x = np.array([columns[j] for j in self.categories.numbers], dtype=np.float64)
            lacking = (~np.isfinite(x)).sum(axis=1).tolist()
            sound = sound and lacking == [columns[j].count(None) for j in self.categories.numbers]
        except (OverflowError, TypeError, ValueError):
            sound = False
        if not sound:
            for at, row in zip(given_at, given, strict=True):
                found[at] = self._wrong(row) or found[at]
            columns = [
                [None if odd(value) else value for value in column]
                for column, odd in zip(columns, self._odd, strict=True)
            ]
            x = np.array([columns[j] for j in self.categories.numbers], dtype=np.float64)
        for j, column in zip(self.categories.numbers, x, strict=True):
            values[rows, j] = column
        for c, j in enumerate(self.categories.columns):
            texts[rows, c] = columns[j]
            values[rows, j] = self.categories.codes(c, columns[j])


def _plain_texts(words: Sequence[Any]) -> bool:
    """Whether all are texts or null, of Unicode that JSON can hold, and none is long."""
    if not TEXTS.issuperset(map(type, words)):
        return False
    there = list(filter(None, words))
    try:
        return len("".join(there).encode()) <= MAX_TEXT or max(map(len, there)) <= MAX_TEXT
    except UnicodeEncodeError:
        return False


def _not_a_text(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        return f"{value!r:.40}"
    if len(value) > MAX_TEXT:
        return f"too long ({len(value)} characters, at most {MAX_TEXT} are taken)"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "no valid Unicode"
    return None


def not_a_number(value: Any) -> str | None:
    """What a value is instead of a number or null, None if it is one."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{value!r:.40}"
    try:
        return None if math.isfinite(value) else f"{value!r}"
    except OverflowError:
        return f"too large ({len(str(value))} digits)"
