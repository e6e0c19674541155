"""Snapshots and partitions: the content alone decides the id, and what was altered or half written is noticed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from flows.errors import StoreError
from flows.stores import tables
from flows.stores.tables import content_hash, read_snapshot, write_snapshot, write_table


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": [3, 1, 2, 1],
            "n": pd.array([1, None, 2**53 + 1, None], dtype="Int64"),
            "x": [0.5, np.nan, -1.0, 0.0],
            "s": ["é", None, "", "b"],
            "ok": [True, False, True, False],
            "t": pd.to_datetime(
                ["2026-01-01", None, "2026-01-01T00:00:00.000001", "1969-01-01"], format="ISO8601", utc=True
            ),
        }
    )


def test_hash_is_pinned() -> None:
    """The hash of a known table never changes, whatever versions of the libraries compute it."""
    assert content_hash(table()) == "54f58ad149c51482a8b7387cdeb41895af223c4da510db1b5d2cbfa046430cdf"


@pytest.mark.parametrize(
    "same",
    [
        lambda f: f.iloc[::-1],
        lambda f: f.sample(frac=1, random_state=3),
        lambda f: f.set_axis([9, 9, 9, 9]),
        lambda f: f.astype({"s": "category"}),
        lambda f: f.astype({"s": "string"}),
        lambda f: f.astype({"id": "Int64"}),
        lambda f: f.astype({"x": "Float64"}),
        lambda f: f.assign(x=f["x"].replace(0.0, -0.0)),
        lambda f: f.assign(t=f["t"].dt.as_unit("us")),
        lambda f: f.assign(t=f["t"].dt.tz_convert("Asia/Tokyo")),
    ],
)
def test_same_content_same_hash(same: Any) -> None:
    """Row order, index, unit, zone and the way of storing a type are not content."""
    assert content_hash(same(table())) == content_hash(table())


@pytest.mark.parametrize(
    "other",
    [
        lambda f: f[["n", "id", "x", "s", "ok", "t"]],
        lambda f: f.rename(columns={"x": "y"}),
        lambda f: f.iloc[:3],
        lambda f: pd.concat([f, f.iloc[:1]]),
        lambda f: f.astype({"id": "int32"}),
        lambda f: f.astype({"id": "float64"}),
        lambda f: f.assign(x=f["x"].fillna(0)),
        lambda f: f.assign(s=f["s"].fillna("")),
        lambda f: f.assign(t=f["t"].dt.tz_localize(None)),
        lambda f: f.assign(x=f["x"].to_numpy()[::-1]),
        lambda f: f.assign(t=f["t"] + pd.Timedelta(microseconds=1)),
        lambda f: f.assign(ok=f["ok"].astype("int64")),
    ],
)
def test_other_content_other_hash(other: Any) -> None:
    """Column order, names, types, values, their pairing in rows and the count of copies are content."""
    assert content_hash(other(table())) != content_hash(table())


def test_texts_do_not_run_into_each_other() -> None:
    """Neighbouring texts are told apart by their lengths, and a text of digits from a number."""

    def texts(*values: str) -> str:
        return content_hash(pd.DataFrame({"s": list(values)}))

    assert len({texts("ab", "c"), texts("a", "bc"), texts("abc", ""), texts("", "abc", "")}) == 4
    assert content_hash(pd.DataFrame({"s": ["1"]})) != content_hash(pd.DataFrame({"s": [1]}))


def test_empty_tables_differ_by_their_columns() -> None:
    """No rows and no columns have a hash too."""
    frames = [pd.DataFrame(), pd.DataFrame({"a": []}), table().iloc[:0]]
    assert len({content_hash(frame) for frame in frames}) == 3


@pytest.mark.parametrize(
    ("frame", "match"),
    [
        (pd.DataFrame({"a": [1, "x"]}), "'a' holds int, str"),
        (pd.DataFrame({"a": [{"k": 1}]}), "'a' holds dict"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "each once"),
        (pd.DataFrame({0: [1]}), "must be strings"),
    ],
)
def test_what_cannot_be_kept_is_refused(frame: pd.DataFrame, match: str) -> None:
    """Mixed values and ambiguous names are a StoreError that names them."""
    with pytest.raises(StoreError, match=match):
        content_hash(frame)


def test_snapshot_round_trip(tmp_path: Path) -> None:
    """What is read back is what was written, in canonical order, under the hash's first 16 digits."""
    snapshot = write_snapshot(table(), tmp_path / "new", meta={"source": "test"})
    assert (snapshot.id, snapshot.rows, snapshot.created) == (content_hash(table())[:16], 4, True)
    again = read_snapshot(tmp_path / "new", snapshot.id)
    assert content_hash(again) == content_hash(table())
    assert again["id"].tolist() == [1, 1, 2, 3]
    assert str(again["t"].dtype) == "datetime64[us, UTC]"
    record = json.loads((tmp_path / "new" / f"{snapshot.id}.json").read_text())
    assert (record["rows"], record["meta"], record["hash"]) == (4, {"source": "test"}, content_hash(table()))
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [f"{snapshot.id}.json", f"{snapshot.id}.parquet"]


def test_snapshot_is_written_once(tmp_path: Path) -> None:
    """The same content in any order is the same snapshot, keeps its first meta, and no file is touched."""
    first = write_snapshot(table(), tmp_path, meta={"n": 1})
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    second = write_snapshot(table().iloc[::-1], tmp_path, meta={"n": 2})
    assert (second.id, second.created, second.meta) == (first.id, False, {"n": 1})
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


def test_row_order_leaves_no_trace_in_the_file(tmp_path: Path) -> None:
    """Two writers of the same rows in another order leave equal bytes."""
    one, two = (write_snapshot(f, tmp_path / n, meta={}) for n, f in (("a", table()), ("b", table().iloc[::-1])))
    assert one.path.read_bytes() == two.path.read_bytes()


@pytest.mark.parametrize("left", ["parquet", "json", "torn"])
def test_half_written_snapshot_is_completed(tmp_path: Path, left: str) -> None:
    """After a crash between the files, or with a torn one, it cannot be read, and writing again makes it whole."""
    snapshot = write_snapshot(table(), tmp_path, meta={})
    (snapshot.path if left == "json" else snapshot.path.with_suffix(".json")).unlink()
    if left == "torn":
        snapshot.path.write_bytes(snapshot.path.read_bytes()[:100])
    with pytest.raises(StoreError, match="no complete snapshot"):
        read_snapshot(tmp_path, snapshot.id)
    assert write_snapshot(table(), tmp_path, meta={}).created
    assert len(read_snapshot(tmp_path, snapshot.id)) == 4


def test_altered_snapshot_is_noticed(tmp_path: Path) -> None:
    """A changed value, a cut file and a forged record are each a StoreError that names the file."""
    snapshot = write_snapshot(table(), tmp_path, meta={})
    good, record = snapshot.path.read_bytes(), snapshot.path.with_suffix(".json")
    table().assign(id=0).to_parquet(snapshot.path)
    with pytest.raises(StoreError, match=rf"{snapshot.id}.parquet was altered"):
        read_snapshot(tmp_path, snapshot.id)
    snapshot.path.write_bytes(good[:100])
    with pytest.raises(StoreError, match=rf"{snapshot.id}.parquet cannot be read"):
        read_snapshot(tmp_path, snapshot.id)
    snapshot.path.write_bytes(good)
    record.write_text("{}")
    with pytest.raises(StoreError, match="no snapshot record"):
        read_snapshot(tmp_path, snapshot.id)
    with pytest.raises(StoreError, match=r"no complete snapshot 'gone'.*known: "):
        read_snapshot(tmp_path, "gone")


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk fails in the middle, the old file stands and no temporary one is left."""
    path = tmp_path / "a.parquet"
    write_table(table(), path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(tables.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_table(table().iloc[:1], path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


@pytest.mark.integration
def test_killed_writers_leave_whole_snapshots(tmp_path: Path) -> None:
    """Writers killed at random moments leave nothing that reads wrong, and the next one completes the snapshot."""
    code = (
        "import sys, pandas as pd; from pathlib import Path; from flows.stores.tables import write_snapshot\n"
        "f = pd.DataFrame({'a': range(200_000)}); print('go', flush=True)\n"
        "while True:\n"
        "    s = write_snapshot(f, Path(sys.argv[1]), meta={})\n"
        "    s.path.with_suffix('.json').unlink(); s.path.unlink()"
    )
    frame = pd.DataFrame({"a": range(200_000)})
    id = content_hash(frame)[:16]
    for delay in (0.0, 0.05, 0.1):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=os.getcwd())
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.kill()
        process.wait()
        process.stdout.close()
        if (tmp_path / f"{id}.json").exists():
            assert len(read_snapshot(tmp_path, id)) == 200_000
        write_snapshot(frame, tmp_path, meta={})
        assert len(read_snapshot(tmp_path, id)) == 200_000


def test_table_is_rewritten_only_when_it_changed(tmp_path: Path) -> None:
    """A partition of the same content is left alone, another or a broken one replaced; times are microseconds."""
    path = tmp_path / "year=2026" / "a.parquet"
    assert write_table(table(), path)
    stamp = path.stat().st_mtime_ns
    assert not write_table(table().iloc[::-1], path)
    assert path.stat().st_mtime_ns == stamp
    assert write_table(table().iloc[:2], path)
    path.write_text("broken")
    assert write_table(table(), path)
    assert str(pq.read_schema(path).field("t").type) == "timestamp[us, tz=UTC]"
    assert pd.read_parquet(path)["id"].tolist() == [3, 1, 2, 1]


def test_column_without_values_keeps_a_type_that_its_siblings_share(tmp_path: Path) -> None:
    """A partition whose text is all missing is still of text, for readers of many files."""
    write_table(pd.DataFrame({"s": [None, None]}), tmp_path / "a.parquet")
    assert str(pq.read_schema(tmp_path / "a.parquet").field("s").type) == "string"
