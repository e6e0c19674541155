"""A model in ONNX Runtime that scores a row to the same bits alone and in any batch.

Kernels for matrices differ with the shape: a logistic regression's scores change in the last bit for a fifth to two
fifths of the rows between one row and several. Trees add up one row after the other and do not. So a model that
consists of trees runs on whatever comes, and every other one on blocks of one fixed size, filled up with zeros; a way
is tried out when the model is opened, and a model that none holds for runs row by row.

What trees cost is mostly branches that the processor guessed wrong. Many rows are scored in the order of the input
that moves scores most, which the upper splits ask for, so that neighbours take the same way: a quarter less time.
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime

Floats = npt.NDArray[np.float64]
Inputs = npt.NDArray[np.float32]
Way = Literal["whole", "blocks", "alone"]

MANY = 64  # rows: fewer are scored sooner as they come than they are put in order
BLOCK = 64  # rows: as dear as one row for a linear model (9 against 8 us), and 1,000 rows are 16 calls
ROW_BY_ROW = {"TreeEnsembleClassifier", "TreeEnsembleRegressor", "TreeEnsemble", "Sigmoid", "Cast", "Identity"}


class ScorerError(ValueError):
    """A model or its input does not have the shape that scoring needs."""


class Model:
    """A session with one way of batching; `way` says which."""

    def __init__(self, content: bytes) -> None:
        self.session = open_session(content)
        self.output = probability_output(self.session)
        first = self.session.get_inputs()[0]
        self.input = str(first.name)
        self.width: int | None = first.shape[-1] if isinstance(first.shape[-1], int) else None
        self.leading: int | None = None  # the input that many rows are put in order by
        self.way: Way = "alone"
        if self.width is not None:
            ways: tuple[Way, ...] = ("whole", "blocks") if operators(content) <= ROW_BY_ROW else ("blocks",)
            self.way = next(filter(self._holds, ways), "alone")
        if self.way == "whole":
            self.leading = self._leading()

    def scores(self, z: Inputs) -> Floats:
        """Probability of class 1 for each row of the model's inputs [n, k], float64 [n]."""
        if self.way == "whole" and self.leading is not None and len(z) >= MANY:
            return self._in_order(z, self.leading)
        if self.way == "whole":
            return self._run(np.ascontiguousarray(z)) if len(z) else np.empty(0)
        if self.way == "blocks":
            return self._in_blocks(z)
        return np.concatenate([np.empty(0), *(self._run(np.ascontiguousarray(z[i : i + 1])) for i in range(len(z)))])

    def _run(self, z: Inputs) -> Floats:
        found = self.session.run([self.output], {self.input: z})[0]
        return np.asarray(found.reshape(len(z), -1)[:, -1], dtype=np.float64)

    def _in_order(self, z: Inputs, column: int) -> Floats:
        order = np.argsort(z[:, column])
        scores = np.empty(len(z))
        scores[order] = self._run(z[order])
        return scores

    def _in_blocks(self, z: Inputs) -> Floats:
        scores = np.empty(len(z))
        for start in range(0, len(z), BLOCK):
            part = z[start : start + BLOCK]
            block = np.zeros((BLOCK, z.shape[1]), dtype=np.float32)
            block[: len(part)] = part
            scores[start : start + len(part)] = self._run(block)[: len(part)]
        return scores

    def _leading(self) -> int | None:
        """The input whose values, shuffled among some rows, change their scores most; None without inputs."""
        z = _rows(self.width or 0, scale=1.0)
        before, change = self._run(z), []
        for column in range(z.shape[1]):
            shuffled = z.copy()
            shuffled[:, column] = np.roll(z[:, column], 1)
            change.append(np.abs(self._run(shuffled) - before).sum())
        return int(np.argmax(change)) if change else None

    def _holds(self, way: Way) -> bool:
        """Whether a way gives each of some rows the same bits in different company and places."""
        self.way = way
        z = _rows(self.width or 0, scale=2.0)
        together = self.scores(z)
        alone = np.concatenate([self.scores(z[i : i + 1]) for i in range(len(z))])
        moved = np.roll(self.scores(np.roll(z, 5, axis=0)), -5)
        same = (alone.view(np.int64) == together.view(np.int64)) & (moved.view(np.int64) == together.view(np.int64))
        return bool(same.all())


def _rows(width: int, *, scale: float) -> Inputs:
    """Some rows to try a model with: inputs of this standard deviation."""
    return np.random.default_rng(0).normal(scale=scale, size=(BLOCK + 7, width)).astype(np.float32)


def open_session(content: bytes) -> onnxruntime.InferenceSession:
    """A single-threaded CPU session of an ONNX model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


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


def operators(content: bytes) -> set[str]:
    """The operators of an ONNX model's graph, read from its protobuf: field 7 is the graph, 1 its nodes, 4 their type.

    ONNX Runtime does not tell, and the onnx package is not needed for serving.
    """
    found: set[str] = set()
    for number, graph in _fields(memoryview(content)):
        for inner, node in _fields(graph) if number == 7 else ():
            found |= {bytes(value).decode() for field, value in _fields(node) if field == 4} if inner == 1 else set()
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and bytes of a protobuf message's length-delimited fields."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            _, at = _varint(message, at)
        elif kind == 2:
            length, at = _varint(message, at)
            yield tag >> 3, message[at : at + length]
            at += length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ScorerError(f"not an ONNX model: wire type {kind} at byte {at}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
