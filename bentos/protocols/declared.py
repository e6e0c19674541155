"""What compressed tables say of their size, read before anything is decompressed: a few bytes may promise gigabytes.

Only the sizes are read here; pyarrow checks all else as it decodes.
Formats: Arrow's Message.fbs (columnar format 1.5, "Encapsulated message format"); Parquet's PageHeader in
Thrift's compact protocol (parquet.thrift; thrift-compact-protocol.md).
"""

import struct
from collections.abc import Set
from typing import Any

from bentos.protocols.columns import Refused, too_many
from bentos.runtime.scoring.inputs import MAX_ROWS

MAX_BYTES = 800 * 8 * MAX_ROWS  # of the decoded tables of a call: 800 float64 columns
DICTIONARY, BATCH = 2, 3  # Arrow's message types
STOP, TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, _MAP, STRUCT = range(13)  # Thrift's wire types
BYTE_ARRAY = 6  # Parquet's physical type
DATA_PAGE, DATA_PAGE_V2 = 5, 8  # fields of its PageHeader
MAX_FOOTER = 2**20  # bytes
BAD = (struct.error, IndexError, ValueError)


def check_total(declared: int) -> int:
    """The bytes declared so far, Refused if they are more than a call may have."""
    if declared > MAX_BYTES:
        raise Refused(400, f"the table has {declared} bytes decompressed, more than the {MAX_BYTES} of one call")
    return declared


def arrow_stream(body: bytes) -> None:
    """Refused if a stream's compressed buffers declare too much; ArrowException if it is no stream."""
    import pyarrow as pa

    total = 0
    for message in pa.ipc.MessageReader.open_stream(pa.BufferReader(body)):
        try:
            total = check_total(total + _declared(memoryview(message.metadata), memoryview(message.body or b"")))
        except BAD as error:
            raise Refused(400, f"the body is not an Arrow stream: {error}") from None


def _declared(metadata: memoryview, body: memoryview) -> int:
    """The decompressed bytes that one message declares."""
    root = struct.unpack_from("<I", metadata)[0]
    kind = struct.unpack_from("<B", metadata, at)[0] if (at := _field(metadata, root, 1)) else 0
    if kind not in (DICTIONARY, BATCH):
        return 0
    batch = _follow(metadata, _field(metadata, root, 2))
    if kind == DICTIONARY:
        batch = _follow(metadata, _field(metadata, batch, 1))
    buffers = _field(metadata, batch, 2)
    if not _field(metadata, batch, 3) or not buffers:  # nothing is compressed
        return len(body)
    at = _follow(metadata, buffers)
    total = 0
    for i in range(struct.unpack_from("<I", metadata, at)[0]):
        start, length = struct.unpack_from("<qq", metadata, at + 4 + 16 * i)
        if length:
            declared = struct.unpack_from("<q", body, start)[0]
            total += length if declared == -1 else max(declared, 0)  # -1: as it is
    return total


def _field(data: memoryview, table: int, slot: int) -> int:
    """Where a flatbuffer table has the field, 0 if it has none."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if 4 + 2 * slot >= struct.unpack_from("<H", data, vtable)[0]:
        return 0
    offset: int = struct.unpack_from("<H", data, vtable + 4 + 2 * slot)[0]
    return table + offset if offset else 0


def _follow(data: memoryview, at: int) -> int:
    """Where an offset points to."""
    if not at:
        raise ValueError("a message lacks its table")
    return at + int(struct.unpack_from("<I", data, at)[0])


def parquet(body: bytes, wanted: Set[str], texts: Set[str]) -> None:
    """Refused if the wanted columns of a file, all if it has none, are too many rows or too large once decompressed.

    Columns of text are refused unless they are among `texts`: a page can hold one long text for all of its rows.
    pyarrow is not asked: damaged metadata of a column ends its process (25.0.1).
    """
    try:
        groups = _footer(body).get(4, [])
        too_many(sum(group[3] for group in groups))
        columns = [column[3] for group in groups for column in group[1]]
        found = [column for column in columns if column[3][0].decode() in wanted]
        total = 0
        for column in found or columns:
            if column[1] == BYTE_ARRAY and (name := column[3][0].decode()) not in texts and found:
                raise Refused(400, "is text; give numbers", field=f"{name:.80}")
            start = min(column[9], column.get(11) or column[9])  # the dictionary's page stands first
            total = check_total(total + _pages(memoryview(body)[start : start + column[7]]))
    except (*BAD, KeyError, TypeError, AttributeError) as error:
        raise Refused(400, f"Failed to parse input as Parquet: {error!r:.200}") from None


def _footer(body: bytes) -> dict[int, Any]:
    """A file's metadata."""
    length = struct.unpack_from("<I", body, len(body) - 8)[0] if len(body) > 12 else 0
    if body[-4:] != b"PAR1" or not 0 < length <= min(MAX_FOOTER, len(body) - 12):
        raise ValueError("the end of the file is no footer")
    return _struct(memoryview(body)[-8 - length : -8], 0)[0]


def _pages(data: memoryview) -> int:
    """The decompressed bytes that the pages of a column declare; Refused if they have more values than rows may be."""
    at = total = values = 0
    while at < len(data):
        fields, at = _struct(data, at)
        size, packed = fields[2], fields[3]  # uncompressed_page_size, compressed_page_size
        if size < 0 or packed < 0:
            raise ValueError("a page has no size")
        at, total = at + packed, check_total(total + size)
        header = fields.get(DATA_PAGE) or fields.get(DATA_PAGE_V2)
        values = too_many(values + (header[1] if header else 0))  # a few bytes repeat one as often as they say
    return total


def _struct(data: memoryview, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """The fields of a Thrift struct by id, and where it ends."""
    fields: dict[int, Any] = {}
    name = 0
    while (head := data[at]) & 15 != STOP:
        at, kind = at + 1, head & 15
        if head >> 4:
            name += head >> 4
        else:
            value, at = _varint(data, at)
            name = value >> 1 ^ -(value & 1)
        if name in fields:
            raise ValueError(f"field {name} is there twice")
        fields[name], at = _value(data, at, kind, depth + 1)
    return fields, at + 1


def _value(data: memoryview, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if depth > 16:
        raise ValueError("the metadata is nested too deep")
    if kind in (TRUE, FALSE):
        return kind == TRUE, at
    if kind in (I16, I32, I64):
        value, at = _varint(data, at)
        return value >> 1 ^ -(value & 1), at
    if kind == STRUCT:
        return _struct(data, at, depth)
    if kind == BINARY:
        size, at = _varint(data, at)
        return bytes(data[at : at + size]), at + size
    if kind in (BYTE, DOUBLE):
        return data[at], at + (1 if kind == BYTE else 8)
    if kind not in (LIST, SET):
        raise ValueError(f"the metadata has a field of type {kind}")
    return _list(data, at, depth)


def _list(data: memoryview, at: int, depth: int) -> tuple[list[Any], int]:
    head, at = data[at], at + 1
    kind, size = head & 15, head >> 4
    if size == 15:
        size, at = _varint(data, at)
    found: list[Any] = []
    for _ in range(size):
        if kind in (TRUE, FALSE):  # which take no byte in a struct and one in a list
            found.append(data[at] == TRUE)
            at += 1
        else:
            value, at = _value(data, at, kind, depth + 1)
            found.append(value)
    return found, at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = data[at]
        at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("a number is too long")
