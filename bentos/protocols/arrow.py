"""Arrow IPC streams at /predict: a table of rows in, a table of answers out; either of them can be JSON instead."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.responses import Response

from bentos.protocols import declared
from bentos.protocols.columns import Columns, Layout, Refused, Rows, too_many
from bentos.protocols.exchange import Call, aside, json_response, parse_json, request_id
from bentos.runtime.answers import Results, column, encoded
from bentos.runtime.blocks import alike
from bentos.runtime.scoring.inputs import MAX_ROWS

if TYPE_CHECKING:
    import pyarrow as pa

STREAM, JSON = "application/vnd.apache.arrow.stream", "application/json"
MAX_TEXT = 100 * MAX_ROWS  # characters in a column
INDEX = "__index_level_"  # where pandas keeps what is no column


def wanted(media_type: str, accept: str) -> bool:
    """Whether a request to /predict is to be answered here: it brings Arrow or asks for it."""
    return media_type.partition(";")[0].strip().lower() == STREAM or STREAM in accept.lower()


async def predict(call: Call) -> Response:
    """POST /predict with Arrow in or out; Arrow in is answered with Arrow unless Accept names JSON alone."""
    arrow_in = call.media_type == STREAM
    if not arrow_in and call.media_type not in ("", JSON):
        raise Refused(415, f"content type {call.media_type!r:.60} is neither {STREAM} nor {JSON}")

    def rows(layout: Layout) -> Rows:
        return layout.rows(from_stream(call.body)) if arrow_in else from_json(call.body, layout)

    answers = await call.answers(rows)
    accept = call.request.headers.get("accept", "*/*").lower()
    if JSON in accept and STREAM not in accept:
        return Response(encoded(answers), headers=request_id(answers), media_type=JSON)
    entity = column(answers, "entity")[0] if answers else call.asked()[1].manifest.entity
    content = await aside(len(call.body), to_stream, answers, entity)
    return Response(content, headers=request_id(answers), media_type=STREAM)


def problem(refused: Refused) -> Response:
    """An error as /predict gives it, in JSON."""
    return json_response(refused.dump(), refused.status)


def from_stream(body: bytes) -> Columns:
    """The columns of a stream; Refused if it is not whole, and before more rows are read than a call may have."""
    import pyarrow as pa

    batches, n = [], 0
    try:
        declared.arrow_stream(body)
        with pa.ipc.open_stream(pa.BufferReader(body)) as reader:
            for batch in reader:
                n = too_many(n + batch.num_rows)
                batch.validate(full=True)  # buffers come from outside: offsets may point anywhere
                batches.append(batch)
            return from_table(pa.Table.from_batches(batches, reader.schema))
    except (pa.ArrowException, OSError, ValueError, EOFError) as error:  # also names and texts that are not UTF-8
        raise Refused(400, f"the body is not an Arrow stream: {error}") from None


def from_json(body: bytes, layout: Layout) -> Rows:
    """The rows of /predict's own JSON; the predictor has yet to check the features that they bring."""
    value = parse_json(body)
    rows: list[Any] = value if isinstance(value, list) else [value]
    too_many(len(rows))
    for i, row in enumerate(rows):
        if not isinstance(row, dict) or not row.keys() <= {*layout.fields, "features"}:
            raise Refused(400, f"must be an object with {', '.join(layout.fields)} and, at most, features", row=i)
        if not isinstance(row.get("features"), dict | None):
            raise Refused(400, "must be an object with a value per feature", row=i, field="features")
    for name, field in layout.fields.items():
        checked = field.check([row.get(name) for row in rows], required=name == layout.entity)
        for row, value in zip(rows, checked, strict=True):
            row[name] = value
    return rows


def from_table(table: "pa.Table") -> Columns:
    """The columns of an Arrow table: numbers as an array with NaN for null, keys and all else as a list."""
    import pyarrow as pa

    found: Columns = {}
    for name, values in zip(table.column_names, table.columns, strict=True):
        if name.startswith(INDEX):
            continue
        if name in found:
            raise Refused(400, "is there twice", field=f"{name:.80}")
        kind = values.type
        if pa.types.is_floating(kind) or (pa.types.is_integer(kind) and not values.null_count):
            found[name] = values.to_numpy()
        elif pa.types.is_decimal(kind):
            found[name] = values.cast(pa.float64()).to_numpy()
        elif pa.types.is_integer(kind) or pa.types.is_null(kind):
            found[name] = values.to_pylist()
        elif pa.types.is_timestamp(kind):
            found[name] = _moments(values, f"{name:.80}")
        elif _is_text(kind):
            found[name] = _texts(values, f"{name:.80}")
        else:
            raise Refused(
                400, f"is of Arrow type {kind}; give numbers, or text if it is a key or a category", field=f"{name:.80}"
            )
    return found


def _moments(column: Any, field: str) -> list[Any]:
    """A column's times, what is below a microsecond cut off; Refused for one that no calendar or zone has."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = pa.timestamp("us", column.type.tz)
    try:
        found: list[Any] = column.cast(options=pc.CastOptions(kind, allow_time_truncate=True)).to_pylist()
    except (ValueError, OverflowError, LookupError) as error:  # Arrow's own are ValueErrors
        raise Refused(400, f"has a time that is none: {error}", field=field) from None
    return found


def _texts(column: Any, field: str) -> list[str | None]:
    """A column's texts; Refused if they are too long together, as rows may share one long text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        lengths = [pc.utf8_length(chunk.dictionary).take(chunk.indices) for chunk in column.chunks]
    else:
        lengths = [pc.utf8_length(chunk) for chunk in column.chunks]
    each = [np.asarray(chunk.fill_null(0), dtype=np.int64) for chunk in lengths]
    so_far = np.cumsum(np.concatenate([np.zeros(0, np.int64), *each]))
    if len(so_far) and so_far[-1] > MAX_TEXT:
        first = int(np.argmax(so_far > MAX_TEXT))
        raise Refused(400, f"has more than {MAX_TEXT} characters; keys are short", row=first, field=field)
    found: list[str | None] = column.cast(pa.large_string()).to_numpy().tolist()
    return found


def _is_text(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _array(values: Sequence[Any], kind: "pa.DataType") -> "pa.Array":
    """An Arrow array; one that has the same value everywhere is made from it alone."""
    import pyarrow as pa

    if alike(values):
        return pa.repeat(pa.scalar(values[0], kind), len(values))
    return pa.array(values, kind)


def to_stream(answers: Results, entity: str) -> bytes:
    """The answers as a stream of one batch: the key, what was decided, and by what."""
    import pyarrow as pa

    keys = column(answers, "key")
    key_type = pa.string() if str in set(map(type, keys)) else pa.int64()
    kinds: dict[str, Any] = {
        "request_id": pa.string(),
        "probability": pa.float64(),
        "risk": pa.string(),
        "event_time": pa.timestamp("us", "UTC"),
        "stale": pa.bool_(),
        "model_version": pa.string(),
        "release": pa.string(),
        "arm": pa.string(),
    }
    arrays = {name: _array(column(answers, name), kind) for name, kind in kinds.items()}
    named = {"request_id": arrays.pop("request_id"), entity: pa.array(keys, key_type)} | arrays
    batch = pa.RecordBatch.from_arrays(list(named.values()), names=list(named))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())
