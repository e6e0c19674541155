"""Tensors of the Open Inference Protocol v2, in JSON and in its binary extension."""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bentos.protocols.columns import Refused
from bentos.runtime.scoring.inputs import MAX_ROWS

TYPES = {
    "BOOL": "?",
    **{f"UINT{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
    **{f"INT{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": f"<f{size}" for size in (2, 4, 8)},
}
BYTES = "BYTES"
LENGTH = struct.Struct("<I").unpack_from
MAX_VALUES = MAX_ROWS * 10_000  # what a shape may promise


@dataclass(frozen=True)
class Tensor:
    """A named tensor: an array of its shape, of texts as objects if its datatype is BYTES."""

    name: str
    values: npt.NDArray[Any]


class Binary:
    """The bytes behind a request's JSON, taken in the order of its inputs."""

    def __init__(self, raw: bytes) -> None:
        self._raw, self._at = memoryview(raw), 0

    @property
    def left(self) -> int:
        """How many bytes no input has taken."""
        return len(self._raw) - self._at

    def take(self, size: Any, field: str) -> memoryview:
        """The next `size` bytes."""
        if type(size) is not int or not 0 <= size <= self.left:
            raise Refused(400, f"binary_data_size {size!r:.20} is not the length of what follows", field=field)
        self._at += size
        return self._raw[self._at - size : self._at]


def read(given: Any, binary: Binary) -> Tensor:
    """One input of a request."""
    if not isinstance(given, dict) or not isinstance(name := given.get("name"), str):
        raise Refused(400, "an input must be an object with a name")
    field = f"{name:.80}"
    shape, datatype = given.get("shape"), given.get("datatype")
    if not isinstance(shape, list) or not shape or not all(type(n) is int and n >= 0 for n in shape):
        raise Refused(400, "its shape must be a list of whole numbers", field=field)
    if not isinstance(datatype, str) or (datatype != BYTES and datatype not in TYPES):
        raise Refused(400, f"datatype {datatype!r:.20} is none of {', '.join((*TYPES, BYTES))}", field=field)
    if len(shape) > 2 or max(shape) > MAX_VALUES or (count := math.prod(shape)) > MAX_VALUES:
        raise Refused(400, f"shape {shape!r:.60} is neither [rows] nor [rows, columns], or too large", field=field)
    parameters = given.get("parameters")
    if isinstance(parameters, dict) and "binary_data_size" in parameters:
        raw = binary.take(parameters["binary_data_size"], field)
        values = _texts(raw, field) if datatype == BYTES else _numbers(raw, TYPES[datatype], field)
    else:
        values = _listed(flatten(given.get("data"), shape, field), datatype, field)
    if len(values) != count:
        raise Refused(400, f"has {len(values)} values; its shape {shape} says {count}", field=field)
    return Tensor(name, values.reshape(shape))


def flatten(data: Any, shape: Sequence[int], field: str) -> list[Any]:
    """The values of nested lists in row-major order; lists that are flat already are taken as they are."""
    if not isinstance(data, list):
        raise Refused(400, "has neither data nor binary_data_size", field=field)
    if not data or not isinstance(data[0], list):
        return data
    for i, row in enumerate(data):
        if len(shape) != 2 or not isinstance(row, list) or len(row) != shape[1]:
            raise Refused(400, f"is not of the shape {list(shape)}", row=i, field=field)
    return [value for row in data for value in row]


def _listed(data: list[Any], datatype: str, field: str) -> npt.NDArray[Any]:
    """Values in JSON as their datatype has them; null is NaN where that is possible."""
    special: dict[str, set[type]] = {BYTES: {str, type(None)}, "BOOL": {bool}}
    kinds = special.get(datatype, {int, float, type(None)})
    odd = next((i for i, value in enumerate(data) if type(value) not in kinds), None)
    if odd is not None:
        raise Refused(400, f"{data[odd]!r:.40} at place {odd} is no {datatype}", field=field)
    if datatype == BYTES:
        return _objects(data)
    try:
        if datatype.startswith(("INT", "UINT")):
            if None in data:
                return _objects(data)
            if not all(type(value) is int for value in data):
                raise Refused(400, f"a value is no whole number, as {datatype} is", field=field)
            return np.array(data, dtype=TYPES[datatype])
        with np.errstate(over="ignore"):
            return np.array(data, dtype=np.float64 if datatype != "BOOL" else bool).astype(TYPES[datatype])
    except OverflowError:
        raise Refused(400, f"a value is too large for {datatype}", field=field) from None


def _numbers(raw: memoryview, dtype: str, field: str) -> npt.NDArray[Any]:
    if len(raw) % np.dtype(dtype).itemsize:
        raise Refused(400, f"{len(raw)} bytes are no whole number of values", field=field)
    return np.frombuffer(raw, dtype=dtype)


def _texts(raw: memoryview, field: str) -> npt.NDArray[Any]:
    """Texts as they lie in the extension: each behind its length in four bytes."""
    found, at, content = [], 0, bytes(raw)
    try:
        while at < len(content):
            start = at + 4
            at = start + LENGTH(content, at)[0]
            found.append(content[start:at])
    except struct.error:
        at = len(content) + 1
    if at > len(content):
        raise Refused(400, "the lengths of its texts exceed its bytes", field=field)
    try:
        return _objects(list(map(bytes.decode, found)))
    except UnicodeDecodeError:
        wrong = next(i for i, text in enumerate(found) if "\ufffd" in text.decode(errors="replace"))
        raise Refused(400, f"text {wrong} is not UTF-8", field=field) from None


def _objects(values: Sequence[Any]) -> npt.NDArray[Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def write(name: str, datatype: str, values: Sequence[Any], *, binary: bool) -> tuple[dict[str, Any], bytes]:
    """One output of a response, [rows], and the bytes that follow if it is to be binary."""
    output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": [len(values)]}
    if not binary:
        return output | {"data": list(values)}, b""
    if datatype == BYTES:
        texts = [str(value).encode() for value in values]
        raw = b"".join([len(text).to_bytes(4, "little") + text for text in texts])
    else:
        raw = np.array(values, dtype=TYPES[datatype]).tobytes()
    return output | {"parameters": {"binary_data_size": len(raw)}}, raw
