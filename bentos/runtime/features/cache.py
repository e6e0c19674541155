"""The feature cache: what the online store said about an entity, kept in the process for some seconds.

`BENTOFLOW_FEATURE_CACHE_S=5` switches it on; unset or 0 it is off. Kept are stored values with their event times as
they were read, never a verdict on their age: ttl, the row's own time and the declared policy are applied to every
request anew. No answer uses values that were read more than that many seconds earlier, whoever wrote or materialised
since; packed vectors alone would have shown it at once, which is the price. An entity that the store does not know is
kept as long: asking for it is the slowest read there is. What raises is not kept.

Each worker, release and entity has a cache of its own, of at most `ENTITIES` entities; beyond that those go first that
were read the longest ago and so would expire first: 20 to 30 MB at a dozen features.

It is made for stores across the network: there a kept batch of 1 to 256 entities was 4 to 35 times as fast (50 to 140
us instead of 0.35 to 4.8 ms beside a Redis on the same machine), and one that misses cost nothing worth measuring.
Beside packed vectors in SQLite it was 2 to 4 times as fast, 0.05 to 0.4 ms a batch, but a batch that misses took up to
75 % longer. A whole request took a tenth less CPU beside Redis at nine hits of ten, and no less beside SQLite: leave
it off there.
"""

import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from bentos.runtime import metrics
from bentos.runtime.features.absent import AbsentReader
from bentos.runtime.features.online import FeatureReader
from bentos.runtime.features.packed import Vectors
from bentos.runtime.features.rows import FeatureRows
from bentos.runtime.features.store import OnlineError

Held = tuple[float, bytes, npt.NDArray[np.object_]]  # until when it counts, an entity's numbers and its texts
NOTHING: Held = (-math.inf, b"", np.empty(0, dtype=object))
ENTITIES = 100_000
SETTING = "BENTOFLOW_FEATURE_CACHE_S"


class CachedReader:
    """Reads through a cache; thread-safe.

    `seconds` is how long a read counts, `use_case` the label of its metrics, `clock` monotonic seconds. A miss is an
    entity that the store was asked for, a hit every other row, also one whose entity was read for another row.
    """

    def __init__(
        self,
        reader: FeatureReader,
        *,
        seconds: float,
        use_case: str,
        entities: int = ENTITIES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reader, self.names, self.entity = reader, reader.names, reader.entity
        self.hits = self.misses = 0
        self._seconds, self._use_case, self._entities, self._clock = seconds, use_case, entities, clock
        self._held: OrderedDict[Any, Held] = OrderedDict()  # the first expires first
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many entities are kept, those that expired and were not asked for since included."""
        return len(self._held)

    @property
    def local(self) -> bool:
        """Whether reads wait for nothing; an entity that is not kept has to be read."""
        return self.reader.local

    def read(self, ids: Sequence[Any], now: datetime | npt.NDArray[np.float64]) -> FeatureRows:
        """What is known about each entity, at `now` or at each row's own time; one call for those not kept, if any."""
        if not len(ids):
            return self.reader.read(ids, now)
        with self._lock:
            vectors, misses = self._vectors(ids)
            self.hits += len(ids) - misses
            self.misses += misses
        metrics.count_lookups(self._use_case, self.entity, hits=len(ids) - misses, misses=misses)
        return self.reader.rows(vectors, now)

    def _vectors(self, ids: Sequence[Any]) -> tuple[Vectors, int]:
        """The ids' stored vectors, and how many entities were read for them."""
        moment = self._clock()  # before the reading: values are at least as old as the store's answer
        found = [self._held.get(i, NOTHING) for i in ids]
        missing = [i for i, (until, *_) in zip(ids, found, strict=True) if until <= moment]
        if not missing:
            return _joined(found), 0
        asked = list(dict.fromkeys(missing))
        numbers, texts = self.reader.vectors(asked)
        until, raw, width = moment + self._seconds, numbers.tobytes(), numbers[0].nbytes
        read = {i: (until, raw[at * width : (at + 1) * width], texts[at]) for at, i in enumerate(asked)}
        self._keep(read, moment)
        return _joined([e if e[0] > moment else read[i] for i, e in zip(ids, found, strict=True)]), len(asked)

    def _keep(self, read: dict[Any, Held], moment: float) -> None:
        """Add what was read at the end; let go of what has expired and of what exceeds the bound, at the front."""
        held = self._held
        for i, entry in read.items():
            held.pop(i, None)  # what expired keeps no place at the front
            held[i] = entry
        while held and (len(held) > self._entities or next(iter(held.values()))[0] <= moment):
            held.popitem(last=False)


def _joined(held: Sequence[Held]) -> Vectors:
    numbers = np.frombuffer(b"".join([vector for _, vector, _ in held]), dtype=np.float64)
    return Vectors(numbers.reshape(len(held), -1), np.array([texts for *_, texts in held], dtype=object))


EntityReader = FeatureReader | CachedReader | AbsentReader


def lifetime() -> float:
    """Seconds that values are kept by `BENTOFLOW_FEATURE_CACHE_S`, 0 for no cache; OnlineError for another text."""
    text = os.environ.get(SETTING, "").strip()
    try:
        seconds = float(text or 0)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise OnlineError(f"{SETTING} is {text!r:.40}; give seconds such as 5, or 0 for no cache")
    return seconds


def cached(reader: FeatureReader, use_case: str) -> EntityReader:
    """The reader behind a cache if the setting asks for one, else itself."""
    seconds = lifetime()
    return CachedReader(reader, seconds=seconds, use_case=use_case) if seconds else reader


def figures(readers: Iterable[CachedReader]) -> dict[str, Any] | None:
    """Hits, misses, the rate of hits (None before the first row) and entities kept; None where nothing is cached."""
    caches = list(readers)
    if not caches:
        return None
    hits, misses = sum(c.hits for c in caches), sum(c.misses for c in caches)
    rate = round(hits / (hits + misses), 4) if hits + misses else None
    return {"hits": hits, "misses": misses, "hit_rate": rate, "entities": sum(map(len, caches))}
