"""Joined reads: the stored features of rows that are about one entity, or about several at once."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bentos.runtime.features.absent import AbsentReader
from bentos.runtime.features.cache import CachedReader, EntityReader, cached
from bentos.runtime.features.online import FeatureReader
from bentos.runtime.features.rows import FeatureRows
from bentos.runtime.features.store import OnlineError, absent
from bentos.runtime.home import ROOT
from bentos.runtime.scoring.manifest import Manifest


class JoinedReader:
    """Reads each entity's features with a reader of its own and puts them side by side."""

    def __init__(self, readers: Sequence[EntityReader], names: Sequence[str]) -> None:
        self.readers, self.names = tuple(readers), tuple(names)
        self._columns = [[self.names.index(name) for name in reader.names] for reader in self.readers]

    @property
    def local(self) -> bool:
        """Whether reads wait for nothing."""
        return all(reader.local for reader in self.readers)

    def read(self, ids: Sequence[Sequence[Any]], now: npt.NDArray[np.float64]) -> FeatureRows:
        """What is known about each row's entities, keys in the readers' order, at its own time in epoch seconds.

        A row is found if one of its entities is; what is not known of another one is missing.
        """
        values = np.full((len(ids), len(self.names)), np.nan)
        texts: dict[str, npt.NDArray[np.object_]] = {}
        parts = []
        for j, (reader, columns) in enumerate(zip(self.readers, self._columns, strict=True)):
            part = reader.read([keys[j] for keys in ids], now)
            values[:, columns] = part.values
            texts |= part.texts
            parts.append(part)
        found = np.any([part.found for part in parts], axis=0)
        missing = found & np.any([part.missing | ~part.found for part in parts], axis=0)
        expired = np.any([part.expired for part in parts], axis=0)
        times = [_oldest(row) for row in zip(*(part.event_times for part in parts), strict=True)]
        ttls = [min((t for t in row if t), default=None) for row in zip(*(p.ttls for p in parts), strict=True)]
        return FeatureRows(values, times, found, expired, missing, ttls, texts)


Reader = EntityReader | JoinedReader


def _oldest(times: Sequence[datetime | None]) -> datetime | None:
    return min((t for t in times if t is not None), default=None)


def open_reader(home: Path, manifest: Manifest, *, root: Path = ROOT) -> Reader:
    """The reader of a release's stored features, behind a cache if so set; OnlineError says what is missing."""
    if absent():
        return _absent(manifest)
    service = manifest.feature_service
    if not manifest.time:
        reader = FeatureReader.open(
            home, entity=manifest.entity, feature_service=service, names=manifest.names, root=root
        )
        _same_kinds(manifest, reader)
        return cached(reader, manifest.use_case)
    readers = [
        FeatureReader.open(home, entity=key, feature_service=service, names=manifest.stored, root=root)
        for key in manifest.keys
    ]
    _same_kinds(manifest, *readers)
    if unread := set(manifest.stored).difference(*(reader.names for reader in readers)):
        raise OnlineError(
            f"feature service {service!r} has {', '.join(sorted(unread))} of another entity than "
            f"{', '.join(manifest.keys)}; train again"
        )
    return JoinedReader([cached(reader, manifest.use_case) for reader in readers], manifest.stored)


def _absent(manifest: Manifest) -> Reader:
    """What stands in for a release's stored features where there is no online store."""
    if not manifest.time:
        return AbsentReader(manifest.entity, manifest.names)
    return JoinedReader([AbsentReader(key, manifest.stored) for key in manifest.keys], manifest.stored)


def caches(readers: Iterable[Reader]) -> list[CachedReader]:
    """The caches that readers read through."""
    parts = [part for reader in readers for part in (reader.readers if isinstance(reader, JoinedReader) else [reader])]
    return [part for part in parts if isinstance(part, CachedReader)]


def _same_kinds(manifest: Manifest, *readers: FeatureReader) -> None:
    """OnlineError unless texts and numbers are in the feature store what they are to the release."""
    stored = {name for reader in readers for name in reader.texts}
    if changed := sorted(stored ^ set(manifest.categorical) & set(manifest.stored)):
        kinds = ("a text", "a number") if changed[0] in stored else ("a number", "a text")
        raise OnlineError(
            f"feature {changed[0]!r} is {kinds[0]} in the feature store, and {kinds[1]} to the release: apply the "
            "feature repository that it was trained with, or train again"
        )
