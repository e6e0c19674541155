"""Blocks of the journal."""

import numpy as np
import orjson
import pytest

from bentos.runtime import blocks, journal
from bentos.runtime.journal import Journal, JournalError


def line(n: int = 3, **changes) -> bytes:
    """A block of n rows."""
    given = {
        "columns": {"request_id": [f"r{i}" for i in range(n)], "score": [0.25] * n, "decision": ["Low"] * n},
        "names": ("a", "b"),
        "values": [np.array([0.1, np.nan, 1e300][:n]), ["x", None, "z"][:n]],
        "others": {"shop": [7, 8, 9][:n]},
        "same": {"arm": "champion", "time": "2024-01-02T00:00:00+00:00"},
    }
    return blocks.compose(n, **(given | changes))


def test_a_block_is_read_as_a_record_per_row(tmp_path):
    """Arrays and lists, what differs and what does not, NaN as null, in order and beside records of one row."""
    alone = {"request_id": "alone", "time": "2024-01-02T00:00:00+00:00"}
    Journal(tmp_path).append([alone, line()])
    assert list(journal.scan(tmp_path)) == [
        alone,
        *(
            {
                "request_id": f"r{i}",
                "score": 0.25,
                "decision": "Low",
                "features": {"a": a, "b": b},
                "others": {"shop": 7 + i},
                "arm": "champion",
                "time": "2024-01-02T00:00:00+00:00",
            }
            for i, (a, b) in enumerate([(0.1, "x"), (None, None), (1e300, "z")])
        ),
    ]


def test_what_all_rows_have_alike_is_written_once():
    """A thousand rows of one release do not name it a thousand times."""
    ids = [f"{i:032x}" for i in range(1000)]
    columns = {"request_id": ids, "decision": ["Low"] * 1000}
    written = line(1000, columns=columns, values=[np.zeros(1000), np.ones(1000)], others={})
    assert written.count(b"Low") == written.count(b"champion") == 1
    assert len(written) < 50_000
    assert [r["request_id"] for r in blocks.expand(orjson.loads(written))] == ids


@pytest.mark.parametrize("part", ["each", "values", "others", "names"])
def test_a_block_with_columns_of_other_lengths_is_corrupt(tmp_path, part):
    """A column that lost a value is an error with file and line, not rows that are shifted."""
    block = orjson.loads(line())
    chosen = block[part]["request_id"] if part == "each" else block[part]["shop"] if part == "others" else block[part]
    (chosen[0] if part == "values" else chosen).pop()
    Journal(tmp_path).append([block])
    with pytest.raises(JournalError, match="line 1 is corrupt"):
        list(journal.scan(tmp_path))


@pytest.mark.parametrize("more", [-1, 1])
def test_a_block_of_another_number_of_rows_is_corrupt(tmp_path, more):
    """Columns that agree with each other but not with the block's count are an error too, and no rows fewer or more."""
    block = orjson.loads(line())
    Journal(tmp_path).append([block | {"rows": block["rows"] + more}])
    with pytest.raises(JournalError, match="line 1 is corrupt"):
        list(journal.scan(tmp_path))


def test_a_torn_block_was_never_answered(tmp_path):
    """Half a block at a segment's end is left out as a whole."""
    Journal(tmp_path).append([line(), line(2)])
    [segment] = journal.segments(tmp_path)
    segment.write_bytes(segment.read_bytes()[:-1])
    assert len(list(journal.scan(tmp_path))) == 3
