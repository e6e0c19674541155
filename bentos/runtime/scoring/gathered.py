"""Gathered rows: those of a batch that are ready to score, column by column, and the errors of the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bentos.runtime.answers import RowError
from bentos.runtime.scoring.categories import Texts
from bentos.runtime.scoring.model import Floats, Inputs
from bentos.runtime.scoring.wire import Values

Key = int | str


class Ready(NamedTuple):
    """The rows of a batch that are ready to score, column by column: of each what `Input` (in inputs) says of one."""

    keys: Sequence[Key | None]
    sources: Sequence[str]
    event_times: Sequence[datetime | None]
    states: Sequence[str]
    others: Sequence[tuple[Key, ...]]
    moments: Sequence[datetime | None]


NOBODY = Ready((), (), (), (), (), ())


@dataclass(frozen=True)
class Gathered:
    """The errors of a batch's rows by place; of the m rows without one the columns, coded values [m, k], texts [m, c]
    and the model's inputs. `brought` are their features as they came where all of them brought some off the wire."""

    errors: dict[int, RowError]
    ready: Ready
    values: Floats
    texts: Texts
    z: Inputs
    brought: Sequence[Values] | None = None

    def part(self, kept: slice, errors: dict[int, RowError]) -> "Gathered":
        """Some of the m rows, side by side, and the errors among them by their places there."""
        columns: Any = [column[kept] for column in self.ready]
        brought = None if self.brought is None else self.brought[kept]
        return Gathered(errors, Ready(*columns), self.values[kept], self.texts[kept], self.z[kept], brought)

    def only(self, kept: npt.NDArray[np.bool_], errors: dict[int, RowError]) -> "Gathered":
        """What is left of the m rows if just these are kept, the others with an error."""
        columns: Any = [list(compress(column, kept)) for column in self.ready]
        ready = Ready(*columns)
        return Gathered(self.errors | errors, ready, self.values[kept], self.texts[kept], self.z[kept])


def requested(keys: Sequence[Key | None]) -> Ready:
    """Rows that bring their features."""
    n = len(keys)
    return Ready(keys, ("request",) * n, (None,) * n, ("ok",) * n, ((),) * n, (None,) * n)


def places(errors: Mapping[int, RowError], m: int) -> list[int]:
    """Where in their batch the m rows without an error stand."""
    return [i for i in range(len(errors) + m) if i not in errors]
