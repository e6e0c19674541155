"""Sources are read as they are, and everything that cannot be read says what to do without giving secrets away."""

import gzip
import json
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from flows.errors import SourceError
from flows.steps.data.contract import check
from flows.stores import sources
from flows.stores.tables import read
from flows.usecases.spec import Column, Contract, HttpSource, PathSource, SimulatedSource, Source, SqlSource
from tests import servers

CDNOW = PathSource(
    url="package://lifetimes/datasets/CDNOW_master.txt",
    format="text",
    skip_rows=1,
    names=("customer_id", "date", "cds", "amount"),
    time_format="%Y%m%d",
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BACKOFF_S", 0.01)


def failure(source: Source, **options: Any) -> str:
    """The message with which reading fails; its traceback holds no other."""
    with pytest.raises(SourceError) as caught:
        read(source, **options)
    assert caught.value.__cause__ is None
    return str(caught.value)


def test_cdnow_comes_from_the_wheel_without_importing_it() -> None:
    """The CDNOW log is read whole from the installed package and keeps its contract, copies of rows included."""
    frame = read(CDNOW, time_columns=["date"])
    assert (len(frame), frame["customer_id"].nunique()) == (69_659, 23_570)
    assert "lifetimes" not in sys.modules
    contract = Contract(
        columns=(
            Column(name="customer_id", kind="int", minimum=1),
            Column(name="date", kind="time"),
            Column(name="cds", kind="int", minimum=1),
            Column(name="amount", kind="float", minimum=0),
        )
    )
    checked = check(frame, contract, time_format=CDNOW.time_format)
    assert len(checked.good) == 69_659
    assert str(checked.good["date"].min()) == "1997-01-01 00:00:00+00:00"
    assert str(checked.good["date"].max()) == "1998-06-30 00:00:00+00:00"
    assert int((checked.good["amount"] == 0).sum()) == 80


def test_csv_values_stay_text(tmp_path: Path) -> None:
    """Leading zeros, 'NA' and long digits survive; only an empty cell is missing."""
    (tmp_path / "a.csv").write_text("id,country,n\n007,NA,9007199254740993\n008,,1\n")
    frame = read(PathSource(url=str(tmp_path / "a.csv"), format="csv"))
    assert frame.to_numpy().tolist()[0] == ["007", "NA", "9007199254740993"]
    assert frame["country"].isna().tolist() == [False, True]


def test_many_compressed_files_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A star in the URL reads all files in order of their names, zipped or not, and ${NAME} is filled in."""
    (tmp_path / "b.csv").write_text("id\n2\n")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"id\n1\n"))
    monkeypatch.setenv("EVENTS", str(tmp_path))
    assert read(PathSource(url="${EVENTS}/*.csv*", format="csv"))["id"].tolist() == ["1", "2"]


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    """A parquet source comes back as it was written."""
    frame = pd.DataFrame({"a": [1, 2], "t": pd.to_datetime(["2026-01-01", "2026-01-02"], utc=True)})
    frame.to_parquet(tmp_path / "a.parquet")
    pd.testing.assert_frame_equal(read(PathSource(url=str(tmp_path / "a.parquet"), format="parquet")), frame)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("gone.csv", None, "no such file; put it there, or correct the URL"),
        ("*.nothing", None, "no such file"),
        ("empty.csv", "", "EmptyDataError"),
        ("header.csv", "a,b\n", "has no rows"),
        ("wide.csv", "a,b\n1,2,3\n", "ParserWarning|ParserError"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: str | None, match: str) -> None:
    """A file that is missing, empty or loses fields is a SourceError that names it."""
    if content is not None:
        (tmp_path / name).write_text(content)
    message = failure(PathSource(url=str(tmp_path / name), format="csv"))
    assert name in message
    assert any(part in message for part in match.split("|"))


def test_other_path_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage for parquet, an absent package, names, variable or time column each say what to do."""
    (tmp_path / "a.parquet").write_text("no parquet")
    assert "a.parquet" in failure(PathSource(url=str(tmp_path / "a.parquet"), format="parquet"))
    assert "no package 'nowhere'" in failure(PathSource(url="package://nowhere/a.txt", format="text", names=("a",)))
    assert "no such file" in failure(PathSource(url="package://lifetimes/a.txt", format="text", names=("a",)))
    (tmp_path / "a.txt").write_text("1 2\n")
    assert "`names`" in failure(PathSource(url=str(tmp_path / "a.txt"), format="text"))
    monkeypatch.delenv("NOT_SET_HERE", raising=False)
    assert "set NOT_SET_HERE" in failure(PathSource(url="${NOT_SET_HERE}/a.csv", format="csv"))
    (tmp_path / "a.csv").write_text("a\n1\n")
    message = failure(PathSource(url=str(tmp_path / "a.csv"), format="csv"), time_columns=["at"])
    assert "no time column 'at'; it has: a" in message


@pytest.mark.parametrize(
    ("url", "want"),
    [
        ("https://me:a@b/c@host/path?token=x", "https://***@host/path?..."),
        ("https://token@host/path", "https://***@host/path"),
        ("https://host/path?a=1&b=2\n3", "https://host/path?..."),
        ("s3://bucket/a@b.csv", "s3://bucket/a@b.csv"),
        ("${DATABASE}", "${DATABASE}"),
    ],
)
def test_url_in_messages(url: str, want: str) -> None:
    """User, password and query never appear; what names the place stays."""
    assert sources.shown(url) == want


def test_what_a_driver_says_is_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came from the environment, and any part of an unescaped password, is hidden in the driver's words too."""
    monkeypatch.setenv("MODE", "opensesame")
    quoted = failure(SqlSource(url="postgresql://me@127.0.0.1:9/x?sslmode=${MODE}", query="select 1"))
    assert 'invalid sslmode value: "${MODE}"' in quoted
    message = failure(SqlSource(url="postgresql://me:opense/same@127.0.0.1/x", query="select 1"))
    assert "cannot read postgresql://***@127.0.0.1/x" in message
    assert "opense" not in message
    assert "same" not in message


def test_sqlite_file(tmp_path: Path) -> None:
    """A query of a SQLite file keeps integers beside nulls exact, and faults are told."""
    path = tmp_path / "events.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table events (id integer, at text)")
        connection.executemany("insert into events values (?, ?)", [(2**53 + 1, "2026-01-01"), (None, "2026-01-02")])
    connection.close()
    url = f"sqlite:///{path}"
    frame = read(SqlSource(url=url, query="select * from events order by at"), time_columns=["at"])
    assert frame["id"][0] == 2**53 + 1
    assert frame["at"].tolist() == ["2026-01-01", "2026-01-02"]
    assert "no such table: event" in failure(SqlSource(url=url, query="select * from event"))
    assert "has no rows" in failure(SqlSource(url=url, query="select * from events where id = 0"))
    assert "no such database file" in failure(SqlSource(url=f"sqlite:///{tmp_path}/gone.db", query="select 1"))
    assert not (tmp_path / "gone.db").exists()


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with servers.postgres() as url:
        yield url


@pytest.mark.integration
def test_postgres(database: str) -> None:
    """Every type that PostgreSQL delivers passes the contract with its exact value."""
    engine = sa.create_engine(database, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("drop table if exists events_of_a_test"))
        connection.execute(
            sa.text(
                "create table events_of_a_test (id bigint, amount numeric, at timestamptz, "
                "day date, name text, key uuid)"
            )
        )
        connection.execute(
            sa.text(
                "insert into events_of_a_test values (9007199254740993, 0.1, '2026-07-01 12:00+02', '2026-07-01', 'é', "
                "'00000000-0000-0000-0000-000000000001'), (null, null, null, null, null, null)"
            )
        )
    frame = read(SqlSource(url=database, query="select * from events_of_a_test order by id"), time_columns=["at"])
    kinds: dict[str, Any] = {"id": "int", "amount": "float", "at": "time", "day": "time", "name": "str", "key": "str"}
    contract = Contract(columns=tuple(Column(name=n, kind=k, nullable=True) for n, k in kinds.items()))
    good = check(frame, contract).good
    assert good.iloc[0].tolist() == [
        2**53 + 1,
        0.1,
        pd.Timestamp("2026-07-01 10:00", tz="UTC"),
        pd.Timestamp("2026-07-01", tz="UTC"),
        "é",
        "00000000-0000-0000-0000-000000000001",
    ]
    assert good.iloc[1].isna().all()
    with engine.begin() as connection:
        connection.execute(sa.text("drop table events_of_a_test"))


@pytest.mark.integration
def test_postgres_faults_hide_the_password(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing table, database or server is told without the password, literal or from the environment."""
    base, _, _ = database.rpartition("/")
    monkeypatch.setenv("DATABASE", database)
    message = failure(SqlSource(url="${DATABASE}", query="select * from nothing_here"))
    assert 'relation "nothing_here" does not exist' in message
    gone = failure(SqlSource(url=f"{base}/gone", query="select 1"))
    assert 'database "gone" does not exist' in gone
    refused = failure(SqlSource(url=f"postgresql://me:p%40ss@127.0.0.1:{servers.free_port()}/x", query="select 1"))
    assert "refused" in refused
    assert not any(secret in told for told in (message, gone, refused) for secret in ("opensesame", "p%40ss", "p@ss"))


@pytest.fixture(scope="module")
def bucket() -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    with servers.s3() as endpoint:
        options = (("endpoint_url", endpoint), ("key", "testing"), ("secret", "opensesame"))
        files = fsspec.filesystem("s3", **dict(options))
        if not files.exists("bentoflow-tests"):
            files.mkdir("bentoflow-tests")
        yield "s3://bentoflow-tests", options


@pytest.mark.integration
def test_s3(bucket: tuple[str, tuple[tuple[str, str], ...]], tmp_path: Path) -> None:
    """Parquet and csv are read from a bucket, new files are seen at once, and what is absent is told."""
    url, options = bucket
    files = fsspec.filesystem("s3", **dict(options))
    pd.DataFrame({"a": [1, 2]}).to_parquet(tmp_path / "a.parquet")
    files.put(str(tmp_path / "a.parquet"), f"{url}/a.parquet")
    assert read(PathSource(url=f"{url}/a.parquet", format="parquet", storage_options=options))["a"].tolist() == [1, 2]
    days = PathSource(url=f"{url}/days/*.csv", format="csv", storage_options=options)
    files.pipe(f"{url}/days/1.csv", b"a\n1\n")
    assert read(days)["a"].tolist() == ["1"]
    stranger = fsspec.filesystem("s3", skip_instance_cache=True, **dict(options))
    stranger.pipe(f"{url}/days/2.csv", b"a\n2\n")
    assert read(days)["a"].tolist() == ["1", "2"]
    message = failure(PathSource(url=f"{url}/gone.csv", format="csv", storage_options=options))
    assert "s3://bentoflow-tests/gone.csv: no such file" in message


@pytest.mark.integration
def test_s3_that_does_not_answer() -> None:
    """An endpoint that refuses is a SourceError without the key."""
    options = (("endpoint_url", f"http://127.0.0.1:{servers.free_port()}"), ("key", "k"), ("secret", "opensesame"))
    message = failure(PathSource(url="s3://bucket/a.csv", format="csv", storage_options=options))
    assert "s3://bucket/a.csv" in message
    assert "opensesame" not in message


@pytest.mark.integration
def test_http_pages_until_there_is_no_next() -> None:
    """Pages are followed, relative or absolute, headers go along, and integers beside nulls stay exact."""
    base, seen = [""], []

    def answer(path: str, headers: dict[str, str]) -> servers.Answer:
        seen.append((path, headers.get("authorization")))
        following = {"/e": "?page=2", "/e?page=2": f"{base[0]}/e?page=3", "/e?page=3": None}[path]
        rows = {"/e": [{"id": 2**53 + 1}], "/e?page=2": [], "/e?page=3": [{"id": None, "n": 1}]}[path]
        return 200, json.dumps({"data": {"rows": rows}, "next": following})

    with servers.http(answer) as base[0]:
        frame = read(
            HttpSource(
                url=f"{base[0]}/e", records="data.rows", next="next", headers=(("Authorization", "Bearer opensesame"),)
            )
        )
    assert frame["id"].tolist() == [2**53 + 1, None]
    assert seen == [(path, "Bearer opensesame") for path in ("/e", "/e?page=2", "/e?page=3")]


@pytest.mark.integration
def test_http_retries_what_may_pass() -> None:
    """A 500 is asked again, an eternal one given up after a bounded number of attempts."""
    calls: list[str] = []

    def answer(path: str, headers: dict[str, str]) -> servers.Answer:
        calls.append(path)
        return (200, '[{"a": 1}]') if path == "/once" and len(calls) > 1 else (500, "later")

    with servers.http(answer) as base:
        assert read(HttpSource(url=f"{base}/once"))["a"].tolist() == [1]
        calls.clear()
        message = failure(HttpSource(url=f"{base}/always?token=opensesame"))
    assert f"answered 500 ({sources.ATTEMPTS} attempts)" in message
    assert len(calls) == sources.ATTEMPTS
    assert "opensesame" not in message


@pytest.mark.integration
@pytest.mark.parametrize(
    ("path", "options", "match"),
    [
        ("/404", {}, "answered 404; check the URL"),
        ("/html", {}, "text/html that is not JSON"),
        ("/list", {"records": "data"}, "no 'data' of path 'data' in the answer, which has a list"),
        ("/page", {"records": "rows"}, "no 'rows' of path 'rows' in the answer, which has keys data, next"),
        ("/page", {"records": "next"}, "records 'next' is str, not a list of objects"),
        ("/numbers", {}, "not a list of objects"),
        ("/empty", {}, "has no rows"),
        ("/page", {"records": "data", "next": "nxet"}, "no 'nxet' of path 'nxet'"),
        ("/page", {"records": "data", "next": "next"}, "page already read"),
        ("/elsewhere", {"records": "data", "next": "next"}, "on another host"),
        ("/endless", {"records": "data", "next": "next"}, "more than 5 pages"),
    ],
)
def test_http_answers_that_cannot_be_used(path: str, options: dict[str, str], match: str) -> None:
    """Every unusable answer is a SourceError that says which path of which URL to correct."""

    def answer(path: str, headers: dict[str, str]) -> servers.Answer:
        where, _, page = path.partition("?page=")
        following = {"/page": "/page", "/elsewhere": "http://127.0.0.2:9/", "/endless": f"?page={int(page or 0) + 1}"}
        fixed = {
            "/html": (200, "<html>"),
            "/list": (200, '[{"a": 1}]'),
            "/numbers": (200, "[1]"),
            "/empty": (200, "[]"),
            "/404": (404, "no"),
        }
        return fixed.get(where) or (200, json.dumps({"data": [{"a": 1}], "next": following[where]}))

    with servers.http(answer) as base:
        assert match in failure(HttpSource(url=base + path, **options), max_pages=5)  # type: ignore[arg-type]


@pytest.mark.integration
def test_http_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection is retried, then told without user, password or the variable's value."""
    monkeypatch.setenv("API", f"http://me:opensesame@127.0.0.1:{servers.free_port()}")
    message = failure(HttpSource(url="${API}/events"))
    assert f"({sources.ATTEMPTS} attempts)" in message
    assert "opensesame" not in message


def test_a_simulation_is_called_with_its_settings() -> None:
    """A simulated source gives what its function makes of its settings; what the function raises is a SourceError."""

    def steps(*, rows: float = 3, by: float = 1.0) -> pd.DataFrame:
        return pd.DataFrame({"at": np.arange(int(rows)) * by})

    source = SimulatedSource(simulate=steps, settings=(("by", 2.0),))
    assert read(source, time_columns=("at",))["at"].tolist() == [0.0, 2.0, 4.0]
    with pytest.raises(SourceError, match="no rows"):
        read(replace(source, settings=(("rows", 0),)))
    with pytest.raises(SourceError, match=r"simulated://steps.*speed.*settings"):
        read(replace(source, settings=(("speed", 1),)))
