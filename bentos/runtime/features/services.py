"""Feature services as Feast declares them: which views, entities and types stand behind their features."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from bentos.runtime.features.rows import View
from bentos.runtime.features.store import OnlineError


def key_of(store: Any, view: str) -> str | None:
    """The join key of a feature view that has exactly one."""
    keys = list(store.registry.get_any_feature_view(view, store.project).join_keys)
    return keys[0] if len(keys) == 1 else None


def text_names(service: Any) -> list[str]:
    """The features of a service that are texts, in order."""
    return [f.name for p in service.feature_view_projections for f in p.features if str(f.dtype) == "String"]


def owners(store: Any, service: Any) -> dict[str | None, list[str]]:
    """The features of a service by the join key of their views, in order."""
    found: dict[str | None, list[str]] = {}
    for projection in service.feature_view_projections:
        found.setdefault(key_of(store, projection.name), []).extend(f.name for f in projection.features)
    return found


def of_entity(store: Any, service: Any, entity: str) -> tuple[Any, list[str]]:
    """What to ask Feast for to get one entity's share of a service, and the features that are in it."""
    every = service.feature_view_projections
    mine = [p for p in every if key_of(store, p.name) in (entity, None)]
    named = [f"{p.name_to_use()}:{f.name}" for p in mine for f in p.features]
    return service if len(mine) == len(every) else named, [f.name for p in mine for f in p.features]


def key_types(store: Any, key: str) -> list[str]:
    """The types of the entities that have this join key; OnlineError if none has."""
    types = [entity.value_type.name for entity in store.list_entities() if entity.join_key == key]
    if not types:
        raise OnlineError(f"no entity of the feature store has the join key {key!r}; apply feature_repo first")
    return types


def views_of(store: Any, service: Any, names: Sequence[str]) -> list[View]:
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
