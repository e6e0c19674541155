"""Online features: what the feature store knows about entities now, with what is too old marked as missing."""

import hashlib
import math
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import typeguard

from bentos.runtime.features.packed import Ask, Pack, RedisPack, Vectors, unpacked
from bentos.runtime.features.packed_sqlite import SqlitePack
from bentos.runtime.features.rows import FeatureRows, View, dated
from bentos.runtime.features.services import key_types, of_entity, owners, text_names, views_of
from bentos.runtime.features.store import OnlineError, settings
from bentos.runtime.home import ROOT

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore, RepoConfig


def repo_config(home: Path, *, root: Path = ROOT) -> "RepoConfig":
    """Feast's configuration from feature_store.yaml with its data under `home`."""
    warm()
    from feast import RepoConfig

    return RepoConfig(**settings(home, root), repo_path=root / "feature_repo")


def warm() -> None:
    """Import the feature store's client, without its changes to how warnings are shown.

    Feast recompiles its own classes with runtime type checks while it is imported, four of five seconds on every
    start. typeguard leaves them out under `python -O`; here they are left out in any case.
    """
    if "feast" in sys.modules:  # changing how warnings are shown, even for a moment, is felt by every other thread
        return
    checks, typeguard.typechecked = typeguard.typechecked, _unchecked  # type: ignore[assignment]
    try:
        with warnings.catch_warnings():
            import feast  # noqa: F401
    finally:
        typeguard.typechecked = checks


def _unchecked(target: Any = None, **options: Any) -> Any:
    return _unchecked if target is None else target


class FeatureReader:
    """Reads one feature service's values for many entities in one call; thread-safe."""

    def __init__(
        self,
        store: "FeatureStore",
        service: "FeatureService",
        *,
        entity: str,
        names: Sequence[str],
        views: Sequence[View],
    ) -> None:
        self.entity, self.names, self.views = entity, tuple(names), tuple(views)
        self._store, self._service = store, service
        self._lock = threading.Lock()
        self._asked, self._held = of_entity(store, service, entity)
        self._all_views = views_of(store, service, self._held)
        known = text_names(service)
        self._held_texts = [name for name in self._held if name in known]
        self.texts = [name for name in self.names if name in known]
        self._pack = open_pack(store, service, entity, self._held, self._all_views, self._ask)
        self._columns = [self._held.index(name) for name in self.names]
        self._times = [len(self._held) + [v.name for v in self._all_views].index(v.name) for v in self.views]

    @property
    def local(self) -> bool:
        """Whether reads wait for nothing: packed vectors lie in a local file."""
        return self._pack is not None and self._pack.local

    @classmethod
    def open(
        cls, home: Path, *, entity: str, feature_service: str, names: Sequence[str], root: Path = ROOT
    ) -> "FeatureReader":
        """A reader of the entity's own among `names`, tried once; OnlineError says what is missing."""
        config = repo_config(home, root=root)
        from feast import FeatureStore

        try:
            store = FeatureStore(config=config)
            service = store.get_feature_service(feature_service)
            foreign = {n for key, own in owners(store, service).items() if key not in (entity, None) for n in own}
            names = [name for name in names if name not in foreign]
            views = views_of(store, service, names)
            reader = cls(store, service, entity=entity, names=names, views=views)
            reader.read(["0" if "STRING" in key_types(store, entity) else 0], datetime.now(UTC))
        except OnlineError:
            raise
        except Exception as error:
            raise OnlineError(
                f"cannot read feature service {feature_service!r} of {entity!r} under {home}: "
                f"{type(error).__name__}: {error}; run `bentoflow prepare`"
            ) from error
        return reader

    def read(self, ids: Sequence[Any], now: datetime | npt.NDArray[np.float64]) -> FeatureRows:
        """What is known about each entity, in one call, at `now` or at each row's own time in epoch seconds."""
        if not len(ids):
            return dated(np.empty((0, len(self.names))), np.empty((len(self.views), 0), np.int64), self.views, now)
        return self.rows(self.vectors(ids), now)

    def vectors(self, ids: Sequence[Any]) -> Vectors:
        """What the store holds on each entity, of any age: the service's values, then their event times; its texts."""
        with self._lock:
            return self._vectors(ids)

    def rows(self, vectors: Vectors, now: datetime | npt.NDArray[np.float64]) -> FeatureRows:
        """What of such vectors counts at `now`, or at each row's own time."""
        numbers, texts = vectors
        times = np.ascontiguousarray(numbers[:, self._times].T).astype(np.int64)
        rows = dated(np.ascontiguousarray(numbers[:, self._columns]), times, self.views, now)
        return replace(rows, texts=self._current(rows, texts)) if self.texts else rows

    def _current(self, rows: FeatureRows, texts: "npt.NDArray[np.object_]") -> "dict[str, npt.NDArray[np.object_]]":
        """The texts by name, None where missing, expired or younger than their row."""
        current = {}
        for name in self.texts:
            current[name] = texts[:, self._held_texts.index(name)].copy()
            current[name][np.isnan(rows.values[:, self.names.index(name)])] = None
        return current

    def pack(self, ids: Sequence[Any]) -> int:
        """Write down what Feast knows about each entity as one vector, for `read`; gives how many it knows.

        Call it after materialising; entities that are not packed, or were written to since, are asked of Feast.
        """
        return 0 if self._pack is None else self._pack.write(ids)

    def _vectors(self, ids: Sequence[Any]) -> Vectors:
        """All of the service's values and each view's event time."""
        found: list[bytes | None] = [None] * len(ids) if self._pack is None else self._pack.read(ids)
        unknown = [at for at, vector in enumerate(found) if vector is None]
        width = len(self._held) + len(self._all_views)
        if not unknown:
            return unpacked(found, width, len(self._held_texts))
        asked = self._ask([ids[at] for at in unknown])
        if len(unknown) == len(ids):
            return asked
        vectors = unpacked(found, width, len(self._held_texts))
        vectors.numbers[unknown], vectors.texts[unknown] = asked
        return vectors

    def _ask(self, ids: Sequence[Any]) -> Vectors:
        """The same from Feast itself, in one call."""
        response = self._store.get_online_features(features=self._asked, entity_rows={self.entity: list(ids)})
        found = response.to_dict(include_event_timestamps=True)
        texts = np.empty((len(ids), len(self._held_texts)), dtype=object)
        for at, name in enumerate(self._held_texts):
            texts[:, at] = found[name]
            found[name] = [math.nan if text is None else 0.0 for text in found[name]]
        rows = [found[name] for name in self._held]
        rows += [found[f"{self._held[v.columns[0]]}__ts"] for v in self._all_views]
        return Vectors(np.ascontiguousarray(np.array(rows, dtype=np.float64).T), texts)


def pack(home: Path, *, entity: str, feature_service: str, ids: Sequence[Any], root: Path = ROOT) -> int:
    """Pack what the online store under `home` knows about entities; call it after materialising or writing online."""
    config = repo_config(home, root=root)
    from feast import FeatureStore

    store = FeatureStore(config=config)
    service = store.get_feature_service(feature_service)
    names = owners(store, service).get(entity, [])
    reader = FeatureReader(store, service, entity=entity, names=names, views=views_of(store, service, names))
    return reader.pack(ids)


def open_pack(
    store: "FeatureStore",
    service: "FeatureService",
    entity: str,
    held: Sequence[str],
    views: Sequence[View],
    ask: Ask,
) -> Pack | None:
    """The packed vectors of a feature service; None for other stores than SQLite and Redis, or other keys."""
    from feast.infra.online_stores.helpers import _redis_key
    from feast.infra.online_stores.sqlite import _table_id

    config, online = store.config, store.config.online_store
    found = [store.registry.get_any_feature_view(view.name, store.project) for view in views]
    if any(list(view.join_keys) != [entity] for view in found):
        return None
    texts = [name for name in text_names(service) if name in held]
    described = (held, [v.name for v in views], *([texts] if texts else []))
    layout = hashlib.sha256(repr(described).encode()).hexdigest()[:8]
    name = f"{store.project}_{service.name}_{layout}"
    key, text = entity_keys(store, entity), "STRING" in key_types(store, entity)
    if online.type == "sqlite":
        versioned = config.registry.enable_online_feature_view_versioning
        path = Path(store._get_provider().online_store._get_db_path(config))
        tables = [_table_id(store.project, view, versioned) for view in found]
        columns = [(at, held[column]) for at, view in enumerate(views) for column in view.columns]
        columns.sort(key=lambda column: held.index(column[1]))
        return SqlitePack(path, name, tables, columns, key, _value, text=text, texts=texts)
    if online.type == "redis" and not online.skip_dedup and not config.registry.enable_online_feature_view_versioning:
        version = config.entity_key_serialization_version

        @lru_cache(maxsize=100_000)
        def redis_key(value: Any) -> bytes:
            return bytes(_redis_key(store.project, _proto(entity, value), entity_key_serialization_version=version))

        client = store._get_provider().online_store._get_client(online)
        return RedisPack(client, name, [f"_ts:{view.name}" for view in views], redis_key, ask, features=len(held))
    return None


def entity_keys(store: "FeatureStore", entity: str) -> Callable[[Any], bytes]:
    """How the online store writes an entity's key."""
    from feast.infra.key_encoding_utils import serialize_entity_key

    version = store.config.entity_key_serialization_version

    return lambda value: bytes(serialize_entity_key(_proto(entity, value), entity_key_serialization_version=version))


def _proto(entity: str, value: Any) -> Any:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    of = Value(string_val=value) if isinstance(value, str) else Value(int64_val=int(value))
    return EntityKey(join_keys=[entity], entity_values=[of])


def _value(stored: bytes) -> float | str:
    """A feature's value as Feast's SQLite store keeps it; NaN for null."""
    from feast.protos.feast.types.Value_pb2 import Value

    value = Value.FromString(stored)
    kind = value.WhichOneof("val")
    if kind == "string_val":
        return str(value.string_val)
    return math.nan if kind is None or kind == "null_val" else float(getattr(value, kind))
