"""Packed vectors: everything a feature service knows about an entity in one value, beside the feature store's own rows.

Feast answers from one row per feature and entity, 100 to 200 us a key. A packed vector is Feast's own answer, written
down after materialising; reading a batch is one SELECT or one pipeline. A vector is served only while it is still what
Feast would answer, whoever wrote in between, and whatever is not packed is asked of Feast:

- SQLite: triggers on Feast's tables delete an entity's vector in the very transaction that changes one of its rows.
  Without all triggers (a table was dropped and made anew) no vector counts.
- Redis: a vector lies in Feast's own hash and carries the event times (Feast's bytes) that it was packed from; it
  counts only while they are those of the hash. Feast never overwrites a row with one of the same event time, unless
  the store is configured with skip_dedup, and then nothing is packed.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import orjson

Floats = npt.NDArray[np.float64]
CHUNK = 500


class Vectors(NamedTuple):
    """What is known about n entities: `numbers` [n, width] are values, then each view's event time in epoch seconds, 0
    where nothing is known; `texts` [n, t] are str or None, and the values of those features 0, or NaN for None."""

    numbers: Floats
    texts: npt.NDArray[np.object_]

    def packed(self) -> list[bytes]:
        """Each entity's vector: its numbers, and behind them its texts as a JSON list if there are any."""
        if not self.texts.shape[1]:
            return [row.tobytes() for row in self.numbers]
        rows = zip(self.numbers, self.texts.tolist(), strict=True)
        return [numbers.tobytes() + orjson.dumps(texts) for numbers, texts in rows]


Ask = Callable[[Sequence[Any]], Vectors]  # of ids, as Feast answers now


def unpacked(found: Sequence[bytes | None], width: int, texts: int) -> Vectors:
    """Vectors from their bytes, writable; zeros and None for None."""
    size, n = 8 * width, len(found)
    blank = bytes(size) + (orjson.dumps([None] * texts) if texts else b"")
    given = [v or blank for v in found]
    if not texts:
        return Vectors(np.frombuffer(bytearray().join(given)).reshape(n, width), np.empty((n, 0), dtype=object))
    numbers = np.frombuffer(bytearray().join([v[:size] for v in given])).reshape(n, width)
    words = np.array(orjson.loads(b"[%b]" % b",".join([v[size:] for v in given])), dtype=object)
    return Vectors(numbers, words.reshape(n, texts))


class Pack(Protocol):
    """The packed vectors of one feature service."""

    @property
    def local(self) -> bool:
        """Whether reads wait for nothing."""
        ...

    def read(self, ids: Sequence[Any]) -> list[bytes | None]:
        """Each id's vector, None where there is none that counts."""
        ...

    def write(self, ids: Sequence[Any]) -> int:
        """Pack what the store has for `ids` now; how many of them it knows."""
        ...


class RedisPack:
    """Vectors in the hashes of Feast's Redis online store."""

    local = False  # each read crosses the network

    def __init__(
        self, client: Any, name: str, times: Sequence[str], key: Callable[[Any], bytes], ask: Ask, *, features: int
    ) -> None:
        self._client, self._key, self._ask, self._features = client, key, ask, features
        self._fields = [f"_packed:{name}", *times]

    def read(self, ids: Sequence[Any]) -> list[bytes | None]:
        """Each id's vector, None where there is none that counts."""
        vectors: list[bytes | None] = []
        for packed, *times in self._fetch(ids):
            stamp = _stamp(times)
            vectors.append(packed[len(stamp) :] if packed is not None and packed.startswith(stamp) else None)
        return vectors

    def write(self, ids: Sequence[Any]) -> int:
        """Pack what Feast answers, leaving out those whose event times changed meanwhile."""
        packed = 0
        for start in range(0, len(ids), CHUNK):
            part = list(ids[start : start + CHUNK])
            before = [_stamp(times) for _, *times in self._fetch(part)]
            vectors = self._ask(part)
            after = [_stamp(times) for _, *times in self._fetch(part)]
            known: list[bool] = np.any(vectors.numbers[:, self._features :] > 0, axis=1).tolist()
            with self._client.pipeline(transaction=False) as pipe:
                for i, vector, is_known, old, new in zip(part, vectors.packed(), known, before, after, strict=True):
                    if is_known and old == new:
                        pipe.hset(self._key(i), self._fields[0], new + vector)
                packed += len(pipe.execute())
        return packed

    def _fetch(self, ids: Sequence[Any]) -> list[list[bytes | None]]:
        with self._client.pipeline(transaction=False) as pipe:
            for i in ids:
                pipe.hmget(self._key(i), self._fields)
            found: list[list[bytes | None]] = pipe.execute()
        return found


def _stamp(times: Sequence[bytes | None]) -> bytes:
    """Event times as Feast wrote them, each after its length."""
    return b"".join(b"\x00" if t is None else bytes([len(t) + 1]) + t for t in times)
