"""The rows of a training or a test as arrays, from a point-in-time joined frame."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bentos.runtime.scoring.categories import Raw, raw_values
from flows.usecases.spec import UseCase


@dataclass(frozen=True, kw_only=True)
class Table:
    """A joined frame as arrays: raw values `x` [n, k] in the order of `names`, `y` int64[n], entity and time per row.

    `categorical` names the features that are texts. `others` has the keys of further entities; `grouped` says that
    entities occur in several rows of a test.
    """

    names: tuple[str, ...]
    x: Raw
    y: NDArray[np.int64]
    entities: NDArray[Any]
    times: NDArray[np.datetime64]
    categorical: tuple[str, ...] = ()
    others: dict[str, NDArray[Any]] = field(default_factory=dict)
    grouped: bool = False

    def part(self, mask: NDArray[np.bool_]) -> "Table":
        """The rows where the mask holds."""
        return replace(
            self,
            x=self.x[mask],
            y=self.y[mask],
            entities=self.entities[mask],
            times=self.times[mask],
            others={name: column[mask] for name, column in self.others.items()},
        )

    def frame(self) -> pd.DataFrame:
        """The features as a frame: numbers as float64, texts as objects."""
        frame = pd.DataFrame(self.x, columns=list(self.names))
        return frame.astype({name: "float64" for name in self.names if name not in self.categorical})


def table(use_case: UseCase, joined: pd.DataFrame, names: Sequence[str], categorical: Sequence[str] = ()) -> Table:
    """Arrays from a point-in-time joined frame; ScorerError names a value that is not of its column's kind."""
    return Table(
        names=tuple(names),
        categorical=tuple(categorical),
        x=raw_values(joined, names, categorical),
        y=joined[use_case.label].to_numpy(dtype=np.int64),
        entities=joined[use_case.entity].to_numpy(),
        times=joined["event_timestamp"].dt.tz_localize(None).to_numpy(),
        others={key: joined[key].to_numpy() for key in use_case.keys[1:]},
        grouped=use_case.by_event,
    )


def mislabelled(data: Table, seed: int) -> Table:
    """The table with its labels in random order: what a broken label join looks like."""
    return replace(data, y=np.random.default_rng(seed).permutation(data.y))
