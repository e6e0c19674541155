"""From the fitted pipeline to the served artefact: preprocessing as numbers, the classifier as ONNX."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from bentos.runtime.scoring.manifest import Feature


def preprocessing(fitted: Pipeline, names: Sequence[str], logged: Sequence[str]) -> tuple[Feature, ...]:
    """The fitted imputer and scaler as numbers, one per feature; the service applies them in float64."""
    fills = fitted["impute"].statistics_
    scaler = fitted["scale"]
    return tuple(
        Feature(name=n, fill=float(f), mean=float(m), scale=float(s), log=n in logged)
        for n, f, m, s in zip(names, fills, scaler.mean_, scaler.scale_, strict=True)
    )


def to_onnx(fitted: Pipeline, names: Sequence[str]) -> bytes:
    """The classifier alone, float32[n, k] in, probabilities[n, 2] out; the input's order is kept in its metadata."""
    from skl2onnx import to_onnx as convert
    from skl2onnx.common.data_types import FloatTensorType

    classifier: Any = fitted["model"]
    with warnings.catch_warnings():  # the converter passes numpy integers, which protobuf deprecates
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        graph = convert(
            classifier,
            initial_types=[("input", FloatTensorType([None, len(names)]))],
            options={id(classifier): {"zipmap": False}},
            target_opset=17,
        )
    entry = graph.metadata_props.add()
    entry.key, entry.value = "features", ",".join(names)
    data: bytes = graph.SerializeToString()
    return data


def exported_names(model: bytes) -> tuple[str, ...]:
    """The order of inputs that the exported artefact was made with."""
    import onnx

    found = {p.key: p.value for p in onnx.load_from_string(model).metadata_props}
    return tuple(found.get("features", "").split(","))


def parity(fitted: Pipeline, x: NDArray[np.float64], exported: NDArray[np.float64]) -> float:
    """Largest absolute difference between the fitted pipeline's scores of `x` and the exported ones."""
    return float(np.max(np.abs(fitted.predict_proba(x)[:, 1] - exported)))


def with_gaps(x: NDArray[np.float64], seed: int, share: float = 0.1) -> NDArray[np.float64]:
    """`x` with a share of its values made missing, and rows of extremes: what parity must also survive."""
    rng = np.random.default_rng(seed)
    holes = np.where(rng.random(x.shape) < share, np.nan, x)
    with warnings.catch_warnings():  # of a column without any value: its extremes are missing too
        warnings.filterwarnings("ignore", message="All-NaN slice")
        low, high = np.nanmin(x, axis=0), np.nanmax(x, axis=0)
    return np.vstack([x, holes, np.full(x.shape[1], np.nan), low, high, high * 1_000.0, -np.abs(high)])
