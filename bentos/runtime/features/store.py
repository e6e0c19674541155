"""The feature store's settings: feature_store.yaml, its data below the home, and the online store by environment."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

NONE = "none"
CARRIED = "feature_registry.db"  # Feast's registry in a release's folder, for containers
HOME_IN_YAML = "../.bentoflow/"
REDIS_URL = "it must be redis://[user:password@]host[:port][/db], with % codes for special characters of the password"


class OnlineError(RuntimeError):
    """The feature store lacks what a release reads, or cannot be reached."""


def settings(home: Path, root: Path) -> dict[str, Any]:
    """What feature_store.yaml says, with its data under `home`.

    `BENTOFLOW_ONLINE_STORE=redis://…` replaces the online store, `BENTOFLOW_FEATURE_REGISTRY` the path of the registry,
    as in an image, which carries the one that its release was made with; postgresql://… is a registry in a database.
    """
    path = root / "feature_repo" / "feature_store.yaml"
    try:
        raw: dict[str, Any] = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise OnlineError(f"no {path}: the feature store is described there") from error
    raw = _rebase(raw, home)
    if containerized():
        raw.pop("offline_store", None)  # an image only reads online, and has no DuckDB
    if not isinstance(raw["registry"], dict):
        raw["registry"] = {"path": raw["registry"]}
    if path_of_registry := os.environ.get("BENTOFLOW_FEATURE_REGISTRY", "").strip():
        raw["registry"] |= sql_registry(path_of_registry) or {"path": path_of_registry}
    if (url := os.environ.get("BENTOFLOW_ONLINE_STORE", "").strip()) and url != NONE:
        raw["online_store"] = redis_store(url)
    return raw


def sql_registry(url: str) -> dict[str, Any] | None:
    """Feast's settings of a registry in PostgreSQL, None if the path is no database's."""
    scheme, _, rest = url.partition("://")
    if scheme.partition("+")[0] not in ("postgresql", "postgres"):
        return None
    # a connection that a restarted server no longer knows is replaced, not used; Feast itself would take psycopg 3
    engine = {"echo": False, "pool_pre_ping": True}
    return {"registry_type": "sql", "path": f"postgresql+psycopg2://{rest}", "sqlalchemy_config_kwargs": engine}


def containerized() -> bool:
    """Whether this is a container that BentoML made."""
    return os.environ.get("BENTOML_CONTAINERIZED") == "true"


def absent() -> bool:
    """Whether `BENTOFLOW_ONLINE_STORE=none` says that there is no online store, so that rows bring their features."""
    return os.environ.get("BENTOFLOW_ONLINE_STORE", "").strip() == NONE


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
