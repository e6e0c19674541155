"""Tables: the rows of a call that come as columns, taken to the model without an object per row."""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from bentos.runtime.scoring.wire import Order, Row, assembled

Column = npt.NDArray[np.float64] | Sequence[str | None]


class Table(Sequence[Row]):
    """Keys and the features of `order`: finite numbers with NaN where missing, texts with None; as rows where asked."""

    __slots__ = ("columns", "entity", "keys", "order")

    def __init__(self, entity: str, keys: Sequence[Any], order: Order, columns: Sequence[Column]) -> None:
        self.entity, self.keys, self.order, self.columns = entity, keys, order, columns

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> "Table": ...
    def __getitem__(self, at: int | slice) -> "Row | Table":
        """A row, or the table of some."""
        if isinstance(at, slice):
            if range(len(self))[at] == range(len(self)):
                return self
            return Table(self.entity, self.keys[at], self.order, [column[at] for column in self.columns])
        place = range(len(self))[at]
        return next(iter(self[place : place + 1]))

    def __iter__(self) -> Iterator[Row]:
        values = [gaps(c) if isinstance(c, np.ndarray) else c for c in self.columns]
        yield from assembled(self.entity, self.keys, self.order, zip(*values, strict=True))


def gaps(x: npt.NDArray[np.float64]) -> list[float | None]:
    """The values, None for NaN."""
    values: list[float | None] = x.tolist()
    return [None if v != v else v for v in values] if np.isnan(x).any() else values
