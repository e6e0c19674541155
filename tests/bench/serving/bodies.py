"""Request bodies: the same rows in every server's protocol, in files that the load generators read."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.bench.serving.artefact import CATEGORIES, NAMES, USERS, data

JSON = (("Content-Type", "application/json"),)
ARROW = (("Content-Type", "application/vnd.apache.arrow.stream"),)
BULK_ROWS = 1_000
Record = dict[str, Any]


@dataclass(frozen=True)
class Bodies:
    """Bodies of one kind: the lines of one .jsonl file, or one file each; all go out with the same headers.

    `score` reads the first row's probability from a response, to see that all servers answer the same.
    """

    paths: tuple[Path, ...]
    headers: tuple[tuple[str, str], ...]
    score: Callable[[bytes], float]

    @cached_property
    def all(self) -> list[bytes]:
        """Every body."""
        if self.paths[0].suffix == ".jsonl":
            return self.paths[0].read_bytes().splitlines()
        return [path.read_bytes() for path in self.paths]


def write(folder: Path) -> dict[str, Bodies]:
    """Bodies by kind: rows with features or by user, and a thousand at once, each as its server's protocol has it."""
    frame, _ = data(BULK_ROWS, 3)
    records = [{k: _plain(v) for k, v in row.items()} for row in frame.to_dict("records")]
    ours = [{"user_id": i, "features": row} for i, row in enumerate(records)]
    orders = [np.roll(np.arange(BULK_ROWS), -i) for i in range(0, BULK_ROWS, 100)]  # no two bulk bodies are alike
    arrow = [_kept(folder / f"bulk-{order[0]}.arrow", _arrow(frame, order)) for order in orders]
    return {
        "row": _lines(folder / "row.jsonl", ours, _of_row),
        "user": _lines(folder / "user.jsonl", [{"user_id": i} for i in range(0, USERS, 2)], _of_row),
        "v2": _lines(folder / "v2.jsonl", [_v2(row) for row in records], _of_v2),
        "mlflow": _lines(folder / "mlflow.jsonl", [{"dataframe_records": [row]} for row in records], _of_mlflow),
        "bulk": _lines(folder / "bulk.jsonl", [[ours[i] for i in order] for order in orders], _of_rows),
        "bulk_arrow": Bodies(tuple(arrow), ARROW, _of_arrow),
        "bulk_v2": _v2_binary(folder, [frame.iloc[order] for order in orders]),
    }


def _plain(value: Any) -> Any:
    return None if value is None or value != value else value


def _kept(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _lines(path: Path, values: list[Any], score: Callable[[bytes], float]) -> Bodies:
    text = "\n".join(json.dumps(value, separators=(",", ":")) for value in values) + "\n"
    return Bodies((_kept(path, text.encode()),), JSON, score)


def _v2(row: Record) -> Record:
    """One tensor if all columns are numbers, as MLServer's users do; else one per column, read as a pandas frame."""
    outputs = [{"name": "predict_proba"}]
    if not CATEGORIES:
        tensor = {"name": "x", "shape": [1, len(row)], "datatype": "FP64", "data": list(row.values())}
        return {"inputs": [tensor], "outputs": outputs}
    inputs = [
        {"name": n, "shape": [1], "datatype": "BYTES" if n in CATEGORIES else "FP64", "data": [v]}
        | ({"parameters": {"content_type": "str"}} if n in CATEGORIES else {})
        for n, v in row.items()
    ]
    return {"parameters": {"content_type": "pd"}, "inputs": inputs, "outputs": outputs}


def _v2_binary(folder: Path, frames: list[pd.DataFrame]) -> Bodies:
    """Open Inference v2's binary extension, a tensor per column, asking for the probabilities in binary too."""
    paths = []
    for i, frame in enumerate(frames):
        inputs, tails = [], []
        for name in frame.columns:
            raw = _raw(frame[name])
            kind = "BYTES" if name in CATEGORIES else "FP64"
            about = {"name": name, "shape": [len(frame)], "datatype": kind}
            inputs.append(about | {"parameters": {"binary_data_size": len(raw)}})
            tails.append(raw)
        outputs = [{"name": "probability", "parameters": {"binary_data": True}}]
        head = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
        paths.append(_kept(folder / f"bulk-{i}.v2", head + b"".join(tails)))
    headers = (("Content-Type", "application/octet-stream"), ("Inference-Header-Content-Length", str(len(head))))
    return Bodies(tuple(paths), headers, _of_v2_binary)


def _raw(column: pd.Series) -> bytes:
    """A column as the binary extension has it: float64, or texts each behind its length."""
    if column.name not in CATEGORIES:
        return column.to_numpy(np.float64).tobytes()
    texts = [value.encode() for value in column]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def _arrow(frame: pd.DataFrame, order: "np.ndarray[Any, np.dtype[np.int64]]") -> bytes:
    import pyarrow as pa

    table = pa.Table.from_pandas(frame.iloc[order][NAMES], preserve_index=False).add_column(0, "user_id", [order])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _of_row(content: bytes) -> float:
    return float(json.loads(content)["probability"])


def _of_rows(content: bytes) -> float:
    return float(json.loads(content)[0]["probability"])


def _of_v2(content: bytes) -> float:
    return float(json.loads(content)["outputs"][0]["data"][-1])


def _of_mlflow(content: bytes) -> float:
    return float(json.loads(content)["predictions"][0][1])


def _of_arrow(content: bytes) -> float:
    import pyarrow as pa

    with pa.ipc.open_stream(content) as reader:
        return float(reader.read_all()["probability"][0].as_py())


def _of_v2_binary(content: bytes) -> float:
    return float(np.frombuffer(content[-8 * BULK_ROWS :], "<f8")[0])
