"""Categories: features that are texts, as positions in a matrix of numbers and as 0/1 inputs of the model.

Raw values are float64[n, k], NaN where missing; with categorical features object[n, k], whose texts are str or None.
Coded values are float64[n, k]: a category's position among those of the manifest, -1 for all that it does not name.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from bentos.runtime.scoring.manifest import Feature, Manifest
from bentos.runtime.scoring.model import Floats, Inputs, ScorerError

Raw = npt.NDArray[Any]
Texts = npt.NDArray[np.object_]  # [n, c] of str or None, one column per categorical feature
MAX_TEXT = 1_000  # characters of a category that a request brings
NOT_FOUND = -1.0


class Categories:
    """The categorical ones of a model's features: where they are, and what their values are to the model."""

    def __init__(self, features: Sequence[Feature]) -> None:
        self.columns = [j for j, f in enumerate(features) if f.categories]
        self.names = [features[j].name for j in self.columns]
        self.numbers = [j for j, f in enumerate(features) if not f.categories]
        self._positions = [{c: float(at) for at, c in enumerate(features[j].categories)} for j in self.columns]
        self._inputs = [_inputs(features[j]) for j in self.columns]
        self.width = sum(inputs.shape[1] for inputs in self._inputs)

    def codes(self, c: int, texts: Sequence[str | None] | Texts) -> Floats:
        """Positions of the texts of the c-th categorical feature."""
        return np.fromiter(map(self._positions[c].get, texts, repeat(NOT_FOUND)), np.float64, len(texts))

    def coded(self, raw: Raw) -> Floats:
        """Coded values of raw ones; ScorerError names a value that is not of its column's kind."""
        if raw.ndim != 2 or raw.shape[1] != len(self.columns) + len(self.numbers):
            raise ScorerError(
                f"expected {len(self.columns) + len(self.numbers)} columns of raw values, got shape {raw.shape}"
            )
        x = np.empty(raw.shape)
        x[:, self.numbers] = raw[:, self.numbers].astype(np.float64)
        for c, j in enumerate(self.columns):
            x[:, j] = self.codes(c, texts(raw[:, j], self.names[c]))
        return x

    def inputs(self, x: Floats, z: Inputs) -> None:
        """Fill the model's inputs z float32[n, width] for coded values x [n, k]."""
        at, codes = 0, x[:, self.columns].astype(np.intp)
        for c, rows in enumerate(self._inputs):
            stop = at + rows.shape[1]
            z[:, at:stop] = rows[codes[:, c]]
            at = stop


def _inputs(feature: Feature) -> Inputs:
    """The 0/1 inputs of each category, and in the last row, which -1 finds, of every other value."""
    n = len(feature.categories)
    return np.vstack([np.eye(n, feature.width), np.eye(1, feature.width, n)]).astype(np.float32)


def texts(values: Iterable[Any], name: str) -> list[str | None]:
    """The values of a categorical feature as str or None; ScorerError names the first that is something else."""
    found = [None if value is None or value != value else value for value in values]
    for value in found:
        if value is not None and not isinstance(value, str):
            raise ScorerError(f"feature {name} is {value!r:.40}; it takes texts, and null where missing")
    return found


def raw_values(columns: Any, names: Sequence[str], categorical: Collection[str]) -> Raw:
    """Raw values [n, k] in the order of `names` from columns by name (a frame, or lists with None where missing).

    KeyError for a column that is not there, ScorerError for a value that is not of its column's kind.
    """
    if not categorical:
        return np.column_stack([np.asarray(columns[name], dtype=np.float64) for name in names])
    raw = np.empty((len(columns[names[0]]), len(names)), dtype=object)
    for j, name in enumerate(names):
        raw[:, j] = texts(columns[name], name) if name in categorical else _numbers(columns[name], name)
    return raw


def rows_to_raw(rows: Sequence[Mapping[str, Any]], manifest: Manifest) -> Raw:
    """Raw values [n, k] of rows with a value or None per feature of the manifest."""
    columns = {name: [row[name] for row in rows] for name in manifest.names}
    return raw_values(columns, manifest.names, manifest.categorical)


def _numbers(values: Any, name: str) -> Floats:
    odd = next((value for value in values if isinstance(value, str)), None)
    if odd is not None:
        raise ScorerError(f"feature {name} is {odd!r:.40}; it takes numbers")
    return np.asarray(values, dtype=np.float64)
