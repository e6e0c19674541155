"""The MLflow scoring protocol: /invocations, /ping and /version, as `mlflow models serve` answers them.

Predictions are records, as those of the registered model: `probability` first, then what the journal knows it by.
Columns that are no feature are left out, as MLflow's schema enforcement does.
"""

import csv
import io
import math
import re
from collections.abc import Set
from itertools import islice
from typing import Any

from starlette.responses import Response

from bentos.protocols import declared
from bentos.protocols.columns import Columns, Layout, Refused, Rows, by_name, by_position, too_many
from bentos.protocols.exchange import Call, json_response, parse_json
from bentos.protocols.tfserving import named_or_placed
from bentos.runtime.answers import column
from bentos.runtime.scoring.inputs import MAX_ROWS

VERSION = "3.17.2"  # of the MLflow whose protocol this is
FORMATS = ("dataframe_split", "dataframe_records", "inputs", "instances")
COLUMNS = ("probability", "risk", "model_version", "request_id")
CSV, JSON, PARQUET = "text/csv", "application/json", "application/vnd.apache.parquet"
CODES = {400: "BAD_REQUEST", 503: "TEMPORARILY_UNAVAILABLE"}
MISSING = frozenset({"", "nan", "NaN", "NA", "N/A", "null", "NULL", "None", "<NA>"})
NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)


async def invocations(call: Call) -> Response:
    """POST /invocations."""
    decoders = {CSV: from_csv, JSON: from_json, PARQUET: from_parquet}
    content_type = call.request.headers.get("content-type", "")
    if call.media_type not in decoders:
        return _unsupported(
            f"This predictor only supports the following content types: Types: {list(decoders)}. Got '{content_type}'."
        )
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.strip().partition("=")
        if name.lower() != "charset":
            return _unsupported(f"Unrecognized content type parameters: {name}.")
        if value.strip('"').lower() != "utf-8":
            return _unsupported("The scoring server only supports UTF-8")
    decode = decoders[call.media_type]

    def rows(layout: Layout) -> Rows:
        return layout.rows(decode(call.body, layout), extra=True)

    answers = await call.answers(rows)
    predictions = [
        dict(zip(COLUMNS, row, strict=True)) for row in zip(*(column(answers, name) for name in COLUMNS), strict=True)
    ]
    return json_response({"predictions": predictions}, answers=answers)


async def ping(call: Call) -> Response:
    """GET /ping: 200 while a release answers, else 404 as MLflow has it."""
    return Response("\n", 200 if call.predictor.ready()[0] else 404, media_type="application/json")


async def version(call: Call) -> Response:
    """GET /version: the MLflow whose protocol is spoken."""
    return Response(VERSION, media_type="application/json")


def problem(refused: Refused) -> Response:
    """An error as MLflow's exceptions are serialised; an unsupported body is plain text there."""
    if refused.status == 415:
        return _unsupported(refused.error)
    code = CODES.get(refused.status, "INTERNAL_ERROR" if refused.status >= 500 else "BAD_REQUEST")
    return json_response({"error_code": code, "message": refused.error}, refused.status)


def from_json(body: bytes, layout: Layout) -> Columns:
    """The columns of one of the four JSON forms."""
    value = parse_json(body)
    given = [name for name in FORMATS if isinstance(value, dict) and name in value]
    if len(given) != 1:
        have = f"it has {', '.join(map(str, value))}" if isinstance(value, dict) else f"it is a {type(value).__name__}"
        raise Refused(
            400, f"Invalid input. The input must be an object with exactly one of {', '.join(FORMATS)}; {have:.200}"
        )
    data = value[given[0]]
    if given[0] == "dataframe_split":
        return split(data)
    return by_name(data) if given[0] == "dataframe_records" else named_or_placed(data, layout)


def split(data: Any) -> Columns:
    """The columns of {"columns": [...], "data": [[...]]}, as pandas' `to_dict(orient="split")` gives it."""
    if not isinstance(data, dict) or not isinstance(names := data.get("columns"), list) or "data" not in data:
        raise Refused(400, "Invalid input. dataframe_split must be an object with columns and data")
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise Refused(400, "Invalid input. The columns of dataframe_split must be texts, each one once")
    if not names and data["data"]:
        raise Refused(400, "Invalid input. dataframe_split names no columns")
    return by_position(data["data"], names)


def from_csv(body: bytes, layout: Layout) -> Columns:
    """The columns of a table with a header, as pandas' `to_csv` writes it, with the index or without."""
    return read_csv(body, {*layout.known} - layout.texts)


def read_csv(body: bytes, numbers: Set[str]) -> Columns:
    """The columns of a table with a header; those named in `numbers` hold numbers, the others texts, None for a gap."""
    try:
        text = io.TextIOWrapper(io.BytesIO(body), encoding="utf-8-sig", newline="")
        lines = (line for line in csv.reader(text, strict=True) if line)
        names, *rows = list(islice(lines, MAX_ROWS + 2)) or [[]]  # one row too many is enough to know
    except (UnicodeDecodeError, csv.Error) as error:
        raise Refused(400, f"Failed to parse input as CSV: {error}") from None
    if not names or len(set(names)) != len(names):
        raise Refused(400, "the first line of the CSV must name the columns, each one once")
    too_many(len(rows))
    for i, row in enumerate(rows):
        if len(row) != len(names):
            raise Refused(400, f"has {len(row)} values; the header names {len(names)}", row=i)
    return {name: [(_number if name in numbers else _text)(row[at]) for row in rows] for at, name in enumerate(names)}


def from_parquet(body: bytes, layout: Layout) -> Columns:
    """The columns of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from bentos.protocols.arrow import from_table

    wanted, texts = {*layout.known}, layout.texts
    declared.parquet(body, wanted, texts)
    try:
        metadata = pq.read_metadata(pa.BufferReader(body))
        too_many(metadata.num_rows)
        there = {metadata.schema.column(i).path for i in range(len(metadata.schema))}
        once = sorted(texts & there)  # a long text is held once
        file = pq.ParquetFile(pa.BufferReader(body), metadata=metadata, read_dictionary=once)
        names = [name for name in file.schema_arrow.names if name in wanted] or file.schema_arrow.names[:1]
        table = file.read(columns=names)
        table.validate(full=True)  # buffers come from outside: offsets may point anywhere
        return from_table(table)
    except (pa.ArrowException, OSError, ValueError) as error:  # also names and texts that are not UTF-8
        raise Refused(400, f"Failed to parse input as Parquet: {error}") from None


def _number(text: str) -> Any:
    """A cell's number, None if it is empty, else its text, for the message."""
    if text in MISSING:
        return None
    if not NUMBER.fullmatch(text):
        return math.inf if text.strip().lower().lstrip("+-") in ("inf", "infinity") else text
    return int(text) if len(text) < 25 and text.strip().lstrip("+-").isdigit() else float(text)


def _text(text: str) -> str | None:
    return None if text in MISSING else text


def _unsupported(message: str) -> Response:
    return Response(message, 415, media_type="text/plain")
