"""Feast on the offline side: apply the feature repository, point-in-time joins, materialisation."""

import json
import sqlite3
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stdout
from datetime import datetime
from importlib.util import module_from_spec, spec_from_file_location
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bentos.runtime.features.online import repo_config, warm
from bentos.runtime.home import replace
from flows.environment import ROOT
from flows.errors import StoreError
from flows.steps.data import cohorts
from flows.steps.data.quarantine import Period
from flows.stores import tables
from flows.usecases.spec import UseCase

REPO = ROOT / "feature_repo"
TEXT, NUMBERS = "String", ("Bool", "Int32", "Int64", "Float32", "Float64")  # Feast's types of a model's inputs
_ONE_AT_A_TIME = threading.Lock()  # Feast's DuckDB store has one connection a process and refuses a second caller


@contextmanager
def quiet() -> Iterator[None]:
    """Without what Feast prints on standard output and without the deprecations of its own libraries."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


def open_store(home: Path) -> Any:
    """The feature store whose state lies below `home`."""
    config = repo_config(home)
    from feast import FeatureStore

    (home / "feast").mkdir(parents=True, exist_ok=True)
    return FeatureStore(config=config)


def definitions(repo: Path = REPO) -> list[Any]:
    """The Feast objects of every file in the feature repository, each file run anew (paths depend on the home)."""
    warm()
    from feast import Entity, FeatureService, FeatureView

    kinds = (Entity, FeatureView, FeatureService)
    found: dict[tuple[str, str], Any] = {}
    for path in sorted(repo.glob("*.py")):
        spec = spec_from_file_location(f"feature_repo_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise StoreError(f"cannot load {path}: not a Python file")
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        for thing in vars(module).values():
            if isinstance(thing, kinds):
                found[type(thing).__name__, thing.name] = thing
    return list(found.values())


def apply(store: Any, repo: Path = REPO) -> list[str]:
    """Register the repository's definitions; the names of the feature services."""
    objects = definitions(repo)
    with quiet():
        store.apply(objects)
    _write_ahead(store)
    return [o.name for o in objects if type(o).__name__ == "FeatureService"]


def registry_file(store: Any) -> bytes:
    """The registry as Feast keeps it where it is a file."""
    return bytes(store.registry.proto().SerializeToString())


def _write_ahead(store: Any) -> None:
    """Let a SQLite online store be read while it is written; kept in the file, so once is enough."""
    path = getattr(store.config.online_store, "path", None)
    if store.config.online_store.type == "sqlite" and path:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")


def service_views(store: Any, service: str) -> list[Any]:
    """The feature views that a feature service projects; StoreError if there is none of that name."""
    from feast.errors import FeatureServiceNotFoundException

    try:
        projections = store.get_feature_service(service).feature_view_projections
    except FeatureServiceNotFoundException as error:
        known = sorted(s.name for s in store.list_feature_services())
        raise StoreError(
            f"no feature service {service!r} in Feast; known: {', '.join(known) or 'none'}. "
            "Run `bentoflow prepare` or `feast -c feature_repo apply`"
        ) from error
    return [store.get_feature_view(p.name) for p in projections]


def feature_names(store: Any, service: str) -> list[str]:
    """Names of the features of a service, in the order of its definition."""
    service_views(store, service)
    projections = store.get_feature_service(service).feature_view_projections
    return [f.name for p in projections for f in p.features]


def input_names(store: Any, use_case: UseCase) -> list[str]:
    """Names of a model's inputs in order: what is stored, then what a request brings."""
    return [*feature_names(store, use_case.feature_service), *(f.name for f in use_case.request)]


def categorical_names(store: Any, use_case: UseCase) -> tuple[str, ...]:
    """Names of a model's inputs that are texts, by the types in Feast; booleans and integers are numbers.

    StoreError for a feature of another type, or a text where the use case declares a number.
    """
    service_views(store, use_case.feature_service)
    projections = store.get_feature_service(use_case.feature_service).feature_view_projections
    kinds = {f.name: str(f.dtype) for p in projections for f in p.features}
    if odd := [name for name, kind in kinds.items() if kind not in (TEXT, *NUMBERS)]:
        raise StoreError(
            f"feature {odd[0]!r} of {use_case.feature_service} is of Feast's type {kinds[odd[0]]}; a model takes "
            f"{', '.join((*NUMBERS, TEXT))}: change it in feature_repo/{use_case.name}.py"
        )
    texts = tuple(name for name, kind in kinds.items() if kind == TEXT)
    numeric = {*use_case.log_features, *([use_case.costs.miss] if use_case.costs else [])}
    if wrong := sorted(numeric & set(texts)):
        raise StoreError(f"{wrong[0]!r} of {use_case.name} is a {TEXT} in Feast, but log_features or costs name it")
    return texts


def point_in_time(store: Any, entities: pd.DataFrame, service: str) -> pd.DataFrame:
    """`entities` (any columns, among them the join keys and `event_timestamp`) with the features of that moment.

    Rows and their order are kept, a value older than its ttl is NaN; StoreError if Feast returns other rows.
    """
    keys = sorted({key for view in service_views(store, service) for key in view.join_keys})
    on = [*keys, "event_timestamp"]
    base = entities[on].drop_duplicates()
    with _ONE_AT_A_TIME, quiet():
        got = store.get_historical_features(entity_df=base, features=store.get_feature_service(service)).to_df()
    names = feature_names(store, service)
    got["event_timestamp"] = pd.to_datetime(got["event_timestamp"], utc=True).astype(base["event_timestamp"].dtype)
    if len(got) != len(base) or got.duplicated(on).any():
        raise StoreError(
            f"asked Feast for {len(base)} rows of {service}, got {len(got)}: training on them would be biased. "
            "Check the offline store's type in feature_repo/feature_store.yaml (duckdb keeps every row)"
        )
    joined = entities.assign(_row=np.arange(len(entities))).merge(got[[*on, *names]], on=on, how="left", validate="m:1")
    if len(joined) != len(entities):
        raise StoreError(f"joining features of {service} gave {len(joined)} rows for {len(entities)}")
    return joined.sort_values("_row").drop(columns="_row").reset_index(drop=True)


def partition(home: Path, use_case: UseCase, key: str, moment: pd.Timestamp) -> Path:
    """The file with an entity's features at a moment of the grid; further entities have folders of their own."""
    folder = home / "features" / use_case.name
    return (folder if key == use_case.entity else folder / key) / f"as_of={moment:%Y-%m-%d}.parquet"


def write_partition(use_case: UseCase, events: pd.DataFrame, moment: pd.Timestamp, home: Path) -> bool:
    """Features of everybody known at a moment of the grid, as files that Feast reads; False if they were so already."""
    changed = []
    for table in use_case.tables:
        frame = table.build(events, moment)
        frame["event_timestamp"] = pd.Series(moment, index=frame.index).astype("datetime64[us, UTC]")
        changed.append(tables.write_table(frame, partition(home, use_case, table.entity, moment)))
    return any(changed)


def training_frame(
    store: Any, use_case: UseCase, events: pd.DataFrame, as_of: pd.Timestamp, without: Sequence[Period] = ()
) -> pd.DataFrame:
    """Labelled rows known as of a moment and in no quarantined period, joined with the features of their own time."""
    return point_in_time(store, cohorts.rows(use_case, events, as_of, without), use_case.feature_service)


def materialise(store: Any, views: Iterable[str], *, start: datetime, end: datetime) -> None:
    """Write the newest row per entity with an event time in `(start, end]` into the online store."""
    with _ONE_AT_A_TIME, quiet():
        store.materialize(start_date=start, end_date=end, feature_views=list(views))


def _state(store: Any, partition: Path) -> dict[str, Any]:
    """What tells one online store, and one version of a partition's file, from another."""
    online = store.config.online_store
    file = Path(getattr(online, "path", "") or "/nonexistent")
    return {
        "online": f"{online.type} {getattr(online, 'connection_string', '').split(',')[0]}",
        "run": _run(store) if online.type == "redis" else None,
        "file": file.stat().st_ino if file.exists() else None,
        "partition": partition.name,
        "written": partition.stat().st_mtime_ns,
    }


def _run(store: Any) -> str:
    """The id of a Redis server's run: after a restart or a failover it may hold less than was written."""
    client = store._get_provider().online_store._get_client(store.config.online_store)
    return str(client.info("server")["run_id"])


def holds(store: Any, home: Path, use_case: str, partition: Path) -> bool:
    """Whether the online store was last materialised, to the end, from this version of the partition."""
    path = home / "feast" / f"online-{use_case}.json"
    try:
        return bool(json.loads(path.read_bytes()) == _state(store, partition))
    except (FileNotFoundError, ValueError):  # one that cannot be read says nothing: it is materialised again
        return False


def remember_online(store: Any, home: Path, use_case: str, partition: Path) -> None:
    """Record that the online store holds the partition; whatever fails before this is done again next time."""
    replace(home / "feast" / f"online-{use_case}.json", json.dumps(_state(store, partition)).encode())


def write_online(store: Any, view: str, rows: pd.DataFrame) -> None:
    """Write rows (join keys, features, `event_timestamp`) into the online store, past the offline one."""
    store.write_to_online_store(view, df=rows.assign(created=pd.Timestamp.now("UTC")))
