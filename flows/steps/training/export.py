"""From the fitted pipeline to the served artefact: preprocessing as numbers and categories, the classifier as ONNX."""

import warnings
from collections.abc import Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

from bentos.runtime.scoring.categories import Raw
from bentos.runtime.scoring.manifest import Feature
from flows.steps.training import trees


def preprocessing(fitted: Pipeline, names: Sequence[str], logged: Sequence[str]) -> tuple[Feature, ...]:
    """The fitted imputer, scaler and encoder as numbers and categories, one feature for each of `names`."""
    columns = fitted.named_steps.get("columns")
    if columns is None:
        return _numbers(fitted, names, logged)
    found: dict[str, Feature] = {}
    for part, transformer, positions in columns.transformers_:
        own = [names[i] for i in positions]
        if part == "numbers":
            found |= {f.name: f for f in _numbers(transformer, own, logged)}
        elif part == "categories":
            found |= {name: _category(transformer, c, name) for c, name in enumerate(own)}
    return tuple(found[name] for name in names)


def _numbers(fitted: Pipeline, names: Sequence[str], logged: Sequence[str]) -> tuple[Feature, ...]:
    fills, scaler = fitted["impute"].statistics_, fitted["scale"]
    return tuple(
        Feature(name=n, fill=float(f), mean=float(m), scale=float(s), log=n in logged)
        for n, f, m, s in zip(names, fills, scaler.mean_, scaler.scale_, strict=True)
    )


def _category(encoder: OneHotEncoder, c: int, name: str) -> Feature:
    """The encoder's c-th column: its categories in the order of its outputs, the infrequent ones last and together."""
    infrequent = encoder.infrequent_categories_[c]
    rare = set() if infrequent is None else set(infrequent)
    kept = tuple(None if _missing(value) else str(value) for value in encoder.categories_[c] if value not in rare)
    return Feature(name=name, fill=0.0, mean=0.0, scale=1.0, categories=kept, rest=bool(rare))


def _missing(value: Any) -> bool:
    return bool(value is None or value != value)


def to_onnx(fitted: Pipeline, names: Sequence[str], width: int | None = None) -> bytes:
    """The classifier alone, float32[n, width] in, probabilities out; the features' order is in its metadata.

    `width` is that of the preprocessed features, one input for each of `names` unless some are categorical.
    """
    graph = converted(with_exact_splits(fitted["model"]), width or len(names))
    entry = graph.metadata_props.add()
    entry.key, entry.value = "features", ",".join(names)
    data: bytes = graph.SerializeToString()
    return data


def converted(model: Any, width: int) -> Any:
    """A fitted classifier as ONNX: float32[n, width] in; P(0) and P(1) [n, 2] out, or P(1) alone [n, 1] of trees."""
    from skl2onnx import to_onnx as convert
    from skl2onnx.common.data_types import FloatTensorType

    with warnings.catch_warnings():  # the converter passes numpy integers, which protobuf deprecates
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        graph = convert(
            model,
            initial_types=[("input", FloatTensorType([None, width]))],
            options={id(model): {"zipmap": False}},
            target_opset=17,
        )
    return trees.single_score(graph)


def with_exact_splits(model: Any) -> Any:
    """The model with each split point of its histogram-boosted trees rounded down to float32; any other as it is.

    No float32 input changes sides by that, while the converter rounds to the nearest, which lets some change.
    """
    if not hasattr(model, "_predictors"):
        return model
    exact = deepcopy(model)
    for predictor in chain.from_iterable(exact._predictors):
        points = predictor.nodes["num_threshold"]
        near = points.astype(np.float32)
        predictor.nodes["num_threshold"] = np.where(near > points, np.nextafter(near, np.float32(-np.inf)), near)
    return exact


def exported_names(model: bytes) -> tuple[str, ...]:
    """The order of inputs that the exported artefact was made with."""
    import onnx

    found = {p.key: p.value for p in onnx.load_from_string(model).metadata_props}
    return tuple(found.get("features", "").split(","))


def parity(fitted: Pipeline, x: Raw, exported: NDArray[np.float64]) -> float:
    """Largest absolute difference between the fitted pipeline's scores of `x` and the exported ones."""
    return float(np.max(np.abs(fitted.predict_proba(x)[:, 1] - exported)))
