"""The scorer: an ONNX classifier behind float64 preprocessing, whose score of a row never depends on other rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from bentos.runtime.manifest import MODEL, Feature, Manifest, ManifestError, load

Floats = npt.NDArray[np.float64]


class ScorerError(ValueError):
    """A model or its input does not have the shape that scoring needs."""


def preprocess(x: Floats, features: Sequence[Feature]) -> npt.NDArray[np.float32]:
    """The model's inputs from raw values [n, k]: fill, log1p, standardise in float64, then cast once to float32.

    A value too large for float32 comes out infinite; the caller refuses it.
    """
    if x.ndim != 2 or x.shape[1] != len(features):
        raise ScorerError(f"expected {len(features)} columns ({', '.join(f.name for f in features)}), got {x.shape}")
    z = np.empty((len(x), len(features)), dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        # Contiguous columns: numpy may take another code path for strided ones, and that may round differently.
        for j, (column, f) in enumerate(zip(np.array(x.T, dtype=np.float64, order="C"), features, strict=True)):
            values = np.where(np.isnan(column), f.fill, column)
            if f.log:
                values = np.log1p(np.maximum(values, 0.0))
            z[:, j] = (values - f.mean) / f.scale
    return z


def open_session(model: bytes) -> onnxruntime.InferenceSession:
    """A single-threaded CPU session of an ONNX model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def session_scores(session: onnxruntime.InferenceSession, z: npt.NDArray[np.float32]) -> Floats:
    """Probability of class 1 for each row of the model's inputs [n, k], float64 [n].

    Each row runs alone. ONNX Runtime multiplies one row with another kernel than several (a fifth to two fifths of a
    logistic regression's scores change in the last bit), so one fixed shape is what makes a row's score the same in
    every batch. It costs 10 to 20 microseconds a row.
    """
    name, output = session.get_inputs()[0].name, probability_output(session)
    rows = np.ascontiguousarray(z, dtype=np.float32)
    scores = np.empty(len(rows), dtype=np.float64)
    for i in range(len(rows)):
        scores[i] = session.run([output], {name: rows[i : i + 1]})[0].reshape(-1)[-1]
    return scores


def probability_output(session: onnxruntime.InferenceSession) -> str:
    """Name of the model's float output, which holds [P(0), P(1)] or P(1) for each row."""
    floats: list[Any] = [o for o in session.get_outputs() if o.type in ("tensor(float)", "tensor(double)")]
    if len(session.get_inputs()) != 1 or not floats:
        found = ", ".join(f"{o.name}: {o.type}" for o in session.get_outputs())
        raise ScorerError(
            f"a model needs one input and a tensor of probabilities, this has outputs {found}; "
            "convert with the option zipmap=False"
        )
    named = [o for o in floats if "prob" in o.name.lower()]
    return str((named or floats)[-1].name)


def decide(score: float, threshold: float) -> bool:
    """Whether a score is at or above the threshold; NaN never is."""
    return bool(score >= threshold)


class Scorer:
    """One model with its preprocessing, ready to score."""

    def __init__(self, manifest: Manifest, model: bytes) -> None:
        self.manifest = manifest
        self.session = open_session(model)
        probability_output(self.session)
        width = self.session.get_inputs()[0].shape[-1]
        if isinstance(width, int) and width != len(manifest.features):
            raise ScorerError(f"the model takes {width} inputs, its manifest names {len(manifest.features)}")

    @classmethod
    def load(cls, folder: Path) -> "Scorer":
        """The scorer of a release folder; ManifestError if a file is missing, altered or the model has no hash."""
        manifest = load(folder)
        if MODEL not in manifest.files:
            raise ManifestError(f"the manifest of {folder} has no sha256 of {MODEL}; release the version again")
        return cls(manifest, (folder / MODEL).read_bytes())

    def preprocess(self, x: Floats) -> npt.NDArray[np.float32]:
        """The model's inputs from raw values [n, k] in the order of the manifest's features."""
        return preprocess(x, self.manifest.features)

    def score(self, x: Floats) -> Floats:
        """Probability of class 1 of raw values [n, k], NaN where missing; bit-identical in any batch and order."""
        return session_scores(self.session, self.preprocess(x))
