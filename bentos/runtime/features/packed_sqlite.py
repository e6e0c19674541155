"""Packed vectors beside Feast's tables in SQLite; `packed` says when one counts."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bentos.runtime.features.packed import CHUNK, Vectors


class SqlitePack:
    """Vectors in a table of the online store's own database file.

    `tables` are Feast's, one per view; `columns` names the view, by its place, and the feature of each packed value;
    `texts` are the features among them that are texts; `decode` reads one of Feast's stored values, NaN for null.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        tables: Sequence[str],
        columns: Sequence[tuple[int, str]],
        entity_key: Callable[[Any], bytes],
        decode: Callable[[bytes], float | str],
        *,
        text: bool,
        texts: Sequence[str] = (),
    ) -> None:
        self.path, self.table, self._entity_key = path, f"packed_{name}", entity_key
        self._tables, self._columns = tuple(tables), {column: at for at, column in enumerate(columns)}
        self._texts = {name: at for at, name in enumerate(texts)}
        self._decode = lru_cache(maxsize=100_000)(decode)
        self._kind = "TEXT" if text else "INTEGER"  # of the keys as requests bring them
        self._triggers = {
            f"{self.table}_{i}_{event}": (event, row, table)
            for i, table in enumerate(tables)
            for event, row in (("insert", "NEW"), ("update", "NEW"), ("delete", "OLD"))
        }
        self._connection: sqlite3.Connection | None = None
        self._seen: int | None = None
        self._valid = False

    @property
    def local(self) -> bool:
        """True once there are vectors: Feast's own reads are slow enough to be kept out of an event loop."""
        return self._valid

    def read(self, ids: Sequence[Any]) -> list[bytes | None]:
        """Each id's vector, None where there is none that counts."""
        if self._connection is None:
            self._connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=0.25)
        if self._seen is None:
            self._look(self._connection)
        if not self._valid:
            self._seen = None
            return [None] * len(ids)
        marks = ",".join("?" * len(ids))
        try:
            query = f'SELECT key, vector FROM "{self.table}" WHERE key IN ({marks})'
            found: dict[Any, bytes] = dict(self._connection.execute(query, ids).fetchall())
        except sqlite3.OperationalError:
            self._seen = None
            return [None] * len(ids)
        # After the reading, so that a table dropped in between is noticed too.
        if self._version(self._connection) != self._seen:
            self._look(self._connection)
            return self.read(ids)
        return [found.get(i) for i in ids]

    def write(self, ids: Sequence[Any]) -> int:
        """Pack what Feast's tables hold, under the database's write lock so that nobody changes them meanwhile."""
        packed = 0
        with closing(sqlite3.connect(self.path, isolation_level=None, timeout=60.0)) as connection:
            with _writing(connection):
                self._prepare(connection)
            for start in range(0, len(ids), CHUNK):
                part = {self._entity_key(i): i for i in ids[start : start + CHUNK]}
                with _writing(connection):
                    vectors = self._stored(connection, list(part))
                    rows = [(part[key], key, vector) for key, vector in vectors.items()]
                    connection.executemany(f'INSERT OR REPLACE INTO "{self.table}" VALUES (?, ?, ?)', rows)
                packed += len(rows)
        return packed

    def _stored(self, connection: sqlite3.Connection, keys: list[bytes]) -> dict[bytes, bytes]:
        """The vectors of the entities that Feast's tables know: values, then each view's event time."""
        places, n = {key: at for at, key in enumerate(keys)}, len(self._columns)
        vectors = np.full((len(keys), n + len(self._tables)), np.nan)
        vectors[:, n:] = 0.0
        texts = np.full((len(keys), len(self._texts)), None, dtype=object)
        marks = ",".join("?" * len(keys))
        for view, table in enumerate(self._tables):
            query = f'SELECT entity_key, feature_name, value, event_ts FROM "{table}" WHERE entity_key IN ({marks})'
            for key, feature, value, moment in connection.execute(query, keys):
                vectors[places[key], n + view] = _epoch(moment)
                if (column := self._columns.get((view, feature))) is not None:
                    found = self._decode(value)
                    if isinstance(found, str) and feature in self._texts:
                        texts[places[key], self._texts[feature]], found = found, 0.0
                    vectors[places[key], column] = found
        known: list[bool] = np.any(vectors[:, n:] > 0, axis=1).tolist()
        packed = Vectors(vectors, texts).packed()
        return {key: packed[at] for key, at in places.items() if known[at]}

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make table and triggers; if a trigger was missing, vectors of that time may be out of date and go."""
        columns = f"key {self._kind} PRIMARY KEY, entity_key BLOB UNIQUE, vector BLOB"
        connection.execute(f'CREATE TABLE IF NOT EXISTS "{self.table}" ({columns})')
        if not self._complete(connection):
            connection.execute(f'DELETE FROM "{self.table}"')
        for name, (event, row, table) in self._triggers.items():
            connection.execute(
                f'CREATE TRIGGER IF NOT EXISTS "{name}" AFTER {event} ON "{table}" BEGIN '
                f'DELETE FROM "{self.table}" WHERE entity_key = {row}.entity_key; END'
            )

    def _complete(self, connection: sqlite3.Connection) -> bool:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        return names >= {self.table, *self._triggers}

    def _look(self, connection: sqlite3.Connection) -> None:
        self._seen = self._version(connection)
        self._valid = self._complete(connection)

    def _version(self, connection: sqlite3.Connection) -> int:
        return int(connection.execute("PRAGMA schema_version").fetchone()[0])


@lru_cache(maxsize=1_000)
def _epoch(stored: int) -> int:
    """Epoch seconds of an event time in Feast's SQLite store, which writes UTC as if it were the machine's own time."""
    return int(datetime.fromtimestamp(stored).replace(tzinfo=UTC).timestamp())


@contextmanager
def _writing(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
