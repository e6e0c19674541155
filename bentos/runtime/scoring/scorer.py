"""The scorer: an ONNX classifier behind float64 preprocessing, whose score of a row never depends on other rows."""

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bentos.runtime.scoring.categories import Categories, Raw
from bentos.runtime.scoring.manifest import MODEL, Feature, Manifest, ManifestError, load
from bentos.runtime.scoring.model import Floats, Inputs, Model, ScorerError

__all__ = ["Floats", "Preprocessor", "Scorer", "ScorerError", "decide", "grade"]


class Preprocessor:
    """The model's inputs from coded values: fill, log1p, standardise in float64, then cast once to float32.

    Numbers come first, in order, then the 0/1 inputs of each categorical feature, in order.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        self.names = [f.name for f in features]
        self.categories = Categories(features)
        numbers = [f for f in features if not f.categories]
        self.width = len(numbers) + self.categories.width
        self._fill: Floats = np.array([f.fill for f in numbers], dtype=np.float64)
        self._mean: Floats = np.array([f.mean for f in numbers], dtype=np.float64)
        self._scale: Floats = np.array([f.scale for f in numbers], dtype=np.float64)
        self._logged = [j for j, f in enumerate(numbers) if f.log]

    def __call__(self, x: npt.NDArray[np.float64]) -> Inputs:
        """Inputs of coded values [n, k], NaN where a number is missing; infinite where too large for float32."""
        if x.ndim != 2 or x.shape[1] != len(self.names):
            raise ScorerError(f"expected {len(self.names)} columns ({', '.join(self.names)}), got {x.shape}")
        if not self.categories.columns:
            return self._standardised(x)
        z = np.empty((len(x), self.width), dtype=np.float32)
        first = len(self.categories.numbers)
        z[:, :first] = self._standardised(x.T[self.categories.numbers].T)
        self.categories.inputs(x, z[:, first:])
        return z

    def _standardised(self, x: Floats) -> Inputs:
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.where(np.isnan(x), self._fill, x)
            for j in self._logged:
                # A contiguous column: numpy may take another code path for a strided one, and round differently.
                column = np.ascontiguousarray(values[:, j])
                values[:, j] = np.log1p(np.maximum(column, 0.0))
            values -= self._mean
            values /= self._scale
            return values.astype(np.float32)


def decide(score: float, threshold: float) -> bool:
    """Whether a score is at or above the threshold; NaN never is."""
    return bool(score >= threshold)


def grade(score: float, thresholds: Sequence[float]) -> int:
    """How many of the rising thresholds a score reaches: the position of its risk; NaN reaches none."""
    return bisect_right(thresholds, score) if score == score else 0


class Scorer:
    """One model with its preprocessing, ready to score."""

    def __init__(self, manifest: Manifest, model: bytes) -> None:
        self.manifest = manifest
        self.preprocess = Preprocessor(manifest.features)
        self.model = Model(model)
        if self.model.width is not None and self.model.width != self.preprocess.width:
            raise ScorerError(f"the model takes {self.model.width} inputs, its manifest names {self.preprocess.width}")

    @classmethod
    def load(cls, folder: Path) -> "Scorer":
        """The scorer of a release folder; ManifestError if a file is missing, altered or the model has no hash."""
        manifest = load(folder)
        if MODEL not in manifest.files:
            raise ManifestError(f"the manifest of {folder} has no sha256 of {MODEL}; release the version again")
        return cls(manifest, (folder / MODEL).read_bytes())

    def score(self, x: Raw) -> Floats:
        """Probability of class 1 of raw values [n, k]; bit-identical in any batch and order."""
        return self.model.scores(self.inputs(x))

    def inputs(self, x: Raw) -> Inputs:
        """The model's inputs of raw values [n, k]."""
        categories = self.preprocess.categories
        return self.preprocess(categories.coded(x) if categories.columns else x)

    def score_inputs(self, z: Inputs) -> Floats:
        """Probability of class 1 of what `preprocess` gave."""
        return self.model.scores(z)
