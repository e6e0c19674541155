"""Online features: what the feature store knows about entities now, with what is too old marked as missing."""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt
import yaml

from bentos.runtime.home import ROOT

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore, RepoConfig

HOME_IN_YAML = "../.bentoflow/"
REDIS_URL = "it must be redis://[user:password@]host[:port][/db], with % codes for special characters of the password"


class OnlineError(RuntimeError):
    """The feature store lacks what a release reads, or cannot be reached."""


@dataclass(frozen=True)
class FeatureRows:
    """Values [n, k] in the asked order, NaN where missing or expired, and per row where they come from.

    `event_times` are those of each row's oldest view, None if no view knows the entity. `expired`: a view's values
    were older than its ttl; `missing`: a view has nothing on an entity that another one knows; `ttls`: the ttl that
    expired first, for messages.
    """

    values: npt.NDArray[np.float64]
    event_times: list[datetime | None]
    found: npt.NDArray[np.bool_]
    expired: npt.NDArray[np.bool_]
    missing: npt.NDArray[np.bool_]
    ttls: list[timedelta | None]


@dataclass(frozen=True)
class View:
    """One view's share of a feature service."""

    name: str
    ttl: timedelta | None
    columns: tuple[int, ...]  # positions in the values


def repo_config(home: Path, *, root: Path = ROOT) -> "RepoConfig":
    """Feast's configuration from feature_store.yaml with its data under `home`.

    `BENTOFLOW_ONLINE_STORE=redis://…` replaces the online store.
    """
    from feast import RepoConfig

    path = root / "feature_repo" / "feature_store.yaml"
    try:
        raw = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise OnlineError(f"no {path}: the feature store is described there") from error
    raw = _rebase(raw, home)
    registry = raw["registry"] if isinstance(raw["registry"], dict) else {"path": raw["registry"]}
    raw["registry"] = registry
    url = os.environ.get("BENTOFLOW_ONLINE_STORE", "").strip()
    if url:
        raw["online_store"] = redis_store(url)
    return RepoConfig(**raw, repo_path=path.parent)


def warm() -> None:
    """Import the feature store's client, which takes seconds, before the first release needs it."""
    import feast  # noqa: F401


def redis_store(url: str) -> dict[str, Any]:
    """Feast's settings of a Redis online store from redis://[user:password@]host[:port][/db]; rediss:// is TLS."""
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
    except ValueError:  # its text holds the part that does not parse, which may be of the password
        raise OnlineError(f"BENTOFLOW_ONLINE_STORE has no valid port; {REDIS_URL}") from None
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise OnlineError(f"BENTOFLOW_ONLINE_STORE begins with {parts.scheme!r:.20}; {REDIS_URL}")
    if "," in unquote(f"{parts.username}{parts.password}"):
        raise OnlineError(
            "BENTOFLOW_ONLINE_STORE's user or password has a comma, which Feast's Redis store cannot take"
        )
    settings = [f"{parts.hostname}:{port}"]
    settings += [f"username={unquote(parts.username)}"] if parts.username else []
    settings += [f"password={unquote(parts.password)}"] if parts.password else []
    settings += [f"db={parts.path.strip('/')}"] if parts.path.strip("/") else []
    settings += ["ssl=true"] if parts.scheme == "rediss" else []
    return {"type": "redis", "connection_string": ",".join(settings)}


def _rebase(value: Any, home: Path) -> Any:
    if isinstance(value, dict):
        return {key: _rebase(v, home) for key, v in value.items()}
    if isinstance(value, str) and value.startswith(HOME_IN_YAML):
        return str(home / value.removeprefix(HOME_IN_YAML))
    return value


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

    @classmethod
    def open(
        cls, home: Path, *, entity: str, feature_service: str, names: Sequence[str], root: Path = ROOT
    ) -> "FeatureReader":
        """A reader of `names` from a feature service, tried once; OnlineError says what is missing."""
        from feast import FeatureStore

        config = repo_config(home, root=root)
        try:
            store = FeatureStore(config=config)
            service = store.get_feature_service(feature_service)
            views = views_of(store, service, names)
            reader = cls(store, service, entity=entity, names=names, views=views)
            reader.read(["0" if "STRING" in _key_types(store, entity) else 0], datetime.now(UTC))
        except OnlineError:
            raise
        except Exception as error:
            raise OnlineError(
                f"cannot read feature service {feature_service!r} of {entity!r} under {home}: "
                f"{type(error).__name__}: {error}; run `bentoflow prepare`"
            ) from error
        return reader

    def read(self, ids: Sequence[Any], now: datetime) -> FeatureRows:
        """What is known at `now` about each entity, in one call."""
        if not len(ids):
            return dated(np.empty((0, len(self.names))), np.empty((len(self.views), 0), np.int64), self.views, now)
        with self._lock:
            response = self._store.get_online_features(features=self._service, entity_rows={self.entity: list(ids)})
        found = response.to_dict(include_event_timestamps=True)
        values = np.array([found[name] for name in self.names], dtype=np.float64).reshape(len(self.names), len(ids)).T
        times = np.array([found[f"{self.names[v.columns[0]]}__ts"] for v in self.views], dtype=np.int64)
        return dated(np.ascontiguousarray(values), times.reshape(len(self.views), len(ids)), self.views, now)


def _key_types(store: "FeatureStore", key: str) -> list[str]:
    types = [entity.value_type.name for entity in store.list_entities() if entity.join_key == key]
    if not types:
        raise OnlineError(f"no entity of the feature store has the join key {key!r}; apply feature_repo first")
    return types


def views_of(store: "FeatureStore", service: "FeatureService", names: Sequence[str]) -> list[View]:
    """The views of a feature service that hold `names`, each with its ttl from the registry."""
    held = {f.name: p.name for p in service.feature_view_projections for f in p.features}
    unknown = [name for name in names if name not in held]
    if unknown:
        raise OnlineError(f"feature service {service.name!r} has no {', '.join(unknown)}; it has {', '.join(held)}")
    views = []
    for view in dict.fromkeys(held[name] for name in names):
        ttl: timedelta | None = getattr(store.registry.get_any_feature_view(view, store.project), "ttl", None)
        columns = tuple(i for i, name in enumerate(names) if held[name] == view)
        views.append(View(view, ttl or None, columns))
    return views


def dated(
    values: npt.NDArray[np.float64], times: npt.NDArray[np.int64], views: Sequence[View], now: datetime
) -> FeatureRows:
    """Values with expired ones removed; `times` [views, n] are event times in epoch seconds, 0 where nothing is known.

    Feast's online store hands out values of any age; its offline join keeps those of age <= ttl, and so do we.
    """
    n = len(values)
    expired = np.zeros(n, dtype=bool)
    ttls: list[timedelta | None] = [None] * n
    for view, seconds in zip(views, times, strict=True):
        if view.ttl is None:
            continue
        too_old = (seconds > 0) & (now.timestamp() - seconds > view.ttl.total_seconds())
        values[np.ix_(too_old, view.columns)] = np.nan
        expired |= too_old
        for i in np.flatnonzero(too_old):
            ttls[i] = view.ttl if ttls[i] is None else min(view.ttl, ttls[i] or view.ttl)
    known = times > 0
    count = known.sum(axis=0)
    found = np.asarray(count > 0, dtype=bool)
    oldest = np.where(known, times, np.iinfo(np.int64).max).min(axis=0, initial=np.iinfo(np.int64).max)
    event_times = [datetime.fromtimestamp(int(t), UTC) if ok else None for t, ok in zip(oldest, found, strict=True)]
    return FeatureRows(values, event_times, found, expired, found & (count < len(views)), ttls)
