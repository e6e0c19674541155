"""Reading a declared source into a raw table: files by fsspec, SQL by SQLAlchemy, JSON endpoints by httpx."""

import importlib.util
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import fsspec
import httpx
import pandas as pd
import sqlalchemy as sa

from flows.errors import SourceError
from flows.usecases.spec import HttpSource, PathSource, SimulatedSource, Source, SqlSource

TIMEOUT_S: Final = 30.0
ATTEMPTS: Final = 4
BACKOFF_S: Final = 0.2
_NAME = re.compile(r"\$\{(\w+)\}")
_SECRET = re.compile(r"secret|passw|token|authorization|key|signature|credential|cookie", flags=re.IGNORECASE)


def read(source: Source, *, time_columns: Sequence[str] = (), max_pages: int = 10_000) -> pd.DataFrame:
    """The rows of a source as it delivers them; types, times included, are for the contract to parse.

    Text formats have no types: every csv and text value is a string, an empty csv cell is missing. `time_columns`
    must be there. Raises SourceError, without credentials, for whatever cannot be read, and for a source of no rows.
    """
    secrets: dict[str, str] = {}
    try:
        if isinstance(source, PathSource):
            frame = _path(source, secrets)
        elif isinstance(source, SqlSource):
            frame = _sql(source, secrets)
        elif isinstance(source, SimulatedSource):
            frame = source.simulate(**dict(source.settings))
        else:
            frame = _http(source, secrets, max_pages)
    except SourceError as error:
        raise SourceError(_clean(str(error), secrets)) from None
    except Exception as error:  # whatever a driver raises; its text may hold credentials
        raise SourceError(
            f"cannot read {shown(source.url)}: {type(error).__name__}: {_clean(str(error), secrets)}. {_advice(source)}"
        ) from None
    if frame.empty:
        raise SourceError(f"{shown(source.url)} has no rows; check the source, or the day that it is read for")
    if missing := [name for name in time_columns if name not in frame.columns]:
        raise SourceError(
            f"{shown(source.url)} has no time column {missing[0]!r}; it has: "
            f"{', '.join(map(str, frame.columns))}. Correct the use case's time or the source"
        )
    return frame


def shown(url: str) -> str:
    """A URL fit for messages: no password, no query."""
    url = re.sub(r"//(?:[^/@]*:.*|[^/]*)@", "//***@", url)  # to the last @: a password may hold @ and /
    return re.sub(r"\?.*$", "?...", url, flags=re.DOTALL)


def _advice(source: Source) -> str:
    if isinstance(source, PathSource):
        return f"Check that the file is there, readable and {source.format}, and its storage options"
    if isinstance(source, SqlSource):
        return "Check that the database answers at this address, and the query"
    if isinstance(source, SimulatedSource):
        return "Check the simulation's settings"
    return "Check that the endpoint answers at this address, and its headers"


def _clean(message: str, secrets: dict[str, str]) -> str:
    for value in sorted(secrets, key=len, reverse=True):
        message = message.replace(value, secrets[value])
    return " ".join(message.split())


def _expand(text: str, secrets: dict[str, str]) -> str:
    """Fill in `${NAME}`; what came from the environment or is a password goes to `secrets`, to be hidden later."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise SourceError(
                f"environment variable {name} is not set, but the source's URL, headers or options use it; set {name}"
            )
        found = os.environ[name]
        secrets.update({found: match.group(0)} if found else {})
        return found

    full = _NAME.sub(value, text)
    if userinfo := re.match(r"\w[\w+.-]*://[^/@]*:(.*)@", full):
        password = userinfo.group(1)
        parts = {password, unquote(password), *re.split(r"[/@:?#]", password)}  # unescaped, a driver quotes parts of it
        secrets.update({part: "***" for part in parts if part and part not in secrets})
    query = urlsplit(full).query if "://" in full else ""
    for secret in (query, *(value for name, value in parse_qsl(query) if _SECRET.search(name))):
        secrets.update(dict.fromkeys((secret, unquote(secret)), "...") if secret else {})
    return full


def _options(pairs: tuple[tuple[str, str], ...], secrets: dict[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, text in pairs:
        value = _expand(text, secrets)
        if value and _SECRET.search(name):
            secrets.setdefault(value, "***")
        options[name] = {"true": True, "false": False}.get(value, value)
    return options


def _inside_wheel(url: str) -> str:
    module, _, path = url.removeprefix("package://").partition("/")
    spec = importlib.util.find_spec(module) if "." not in module and module else None
    if spec is None or not spec.submodule_search_locations:
        raise SourceError(f"{url}: no package {module!r} is installed; install the wheel that brings it")
    return str(Path(spec.submodule_search_locations[0]) / path)


def _path(source: PathSource, secrets: dict[str, str]) -> pd.DataFrame:
    url = _expand(source.url, secrets)
    url = _inside_wheel(url) if url.startswith("package://") else url
    files, path = fsspec.core.url_to_fs(url, **_options(source.storage_options, secrets))
    files.invalidate_cache()  # fsspec keeps listings for the life of the process
    paths = sorted(files.glob(path)) if "*" in path else [path]
    if not paths or not files.exists(paths[0]):
        raise SourceError(f"{shown(source.url)}: no such file; put it there, or correct the URL")
    frames = [_file(source, files, each) for each in paths]
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)


def _file(source: PathSource, files: Any, path: str) -> pd.DataFrame:
    if source.format == "parquet":
        return pd.read_parquet(path, filesystem=files)
    text: dict[str, Any] = {"sep": r"\s+"} if source.format == "text" else {"na_values": [""]}
    names: dict[str, Any] = {"header": None, "names": list(source.names)} if source.names else {}
    if source.format == "text" and not names:
        raise SourceError(f"{shown(source.url)}: a text file has no header; give its column names in `names`")
    with files.open(path, "rb", compression="infer") as stream, warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # it announces that surplus fields are lost
        frame: pd.DataFrame = pd.read_csv(
            stream, dtype=str, keep_default_na=False, skiprows=source.skip_rows, index_col=False, **text, **names
        )
    return frame


def _sql(source: SqlSource, secrets: dict[str, str]) -> pd.DataFrame:
    url = sa.make_url(_expand(source.url, secrets))
    name = url.database
    sqlite_file = url.get_backend_name() == "sqlite" and name and not name.startswith((":memory:", "file:"))
    if sqlite_file and not Path(str(name)).exists():
        raise SourceError(f"{shown(source.url)}: no such database file; SQLite would create an empty one. Correct it")
    options = {"connect_timeout": int(TIMEOUT_S)} if url.get_backend_name() == "postgresql" else {}
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=options, hide_parameters=True)
    with engine.connect() as connection:  # integers beside nulls stay exact
        return pd.read_sql_query(sa.text(source.query), connection, coerce_float=False, dtype_backend="numpy_nullable")


def _http(source: HttpSource, secrets: dict[str, str], max_pages: int) -> pd.DataFrame:
    headers = _options(source.headers, secrets)
    rows: list[dict[str, Any]] = []
    with httpx.Client(timeout=TIMEOUT_S, headers=headers) as client:
        for page in _pages(source, client, _expand(source.url, secrets), max_pages):
            found = _at(page, source.records, source)
            if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
                raise SourceError(
                    f"{shown(source.url)}: records {source.records!r} is {type(found).__name__}, not a "
                    "list of objects; correct the dotted path `records`"
                )
            rows += found
    return pd.DataFrame(rows, dtype=object)  # a null beside integers would make them floats


def _pages(source: HttpSource, client: httpx.Client, url: str, max_pages: int) -> Iterator[Any]:
    home, seen = httpx.URL(url), set[str]()
    for _ in range(max_pages):
        seen.add(url)
        page = _json(client, url)
        yield page
        after = _at(page, source.next, source, optional=len(seen) > 1) if source.next else None
        if not after:
            return
        target = httpx.URL(url).join(str(after))
        if (target.scheme, target.netloc) != (home.scheme, home.netloc):
            raise SourceError(
                f"{shown(url)}: the next page {shown(str(target))} is on another host, where the headers "
                "must not go; declare the source at that host"
            )
        url = str(target)
        if url in seen:
            raise SourceError(
                f"{shown(source.url)}: page {len(seen)} names a page already read as its next; correct "
                "the dotted path `next`"
            )
    raise SourceError(f"{shown(source.url)} has more than {max_pages} pages; ask for larger pages or a shorter period")


def _at(page: Any, path: str, source: HttpSource, *, optional: bool = False) -> Any:
    for key in path.split(".") if path else ():
        if not isinstance(page, dict) or key not in page:
            if optional:
                return None
            has = f"keys {', '.join(page) or 'none'}" if isinstance(page, dict) else f"a {type(page).__name__}"
            raise SourceError(
                f"{shown(source.url)}: no {key!r} of path {path!r} in the answer, which has {has}; "
                "correct the dotted path"
            )
        page = page[key]
    return page


def _json(client: httpx.Client, url: str, sleep: Callable[[float], None] = time.sleep) -> Any:
    for attempt in range(1, ATTEMPTS + 1):
        problem = ""
        try:
            answer = client.get(url)
        except httpx.TransportError as error:
            problem = f"{type(error).__name__}: {error}"
        else:
            if answer.status_code >= 500 or answer.status_code == 429:
                problem = f"answered {answer.status_code}"
        if not problem:
            break
        if attempt == ATTEMPTS:
            raise SourceError(f"{shown(url)}: {problem} ({ATTEMPTS} attempts); check that the endpoint is up")
        sleep(BACKOFF_S * 2 ** (attempt - 1))
    if answer.status_code != 200:
        raise SourceError(f"{shown(url)} answered {answer.status_code}; check the URL, its path and the headers")
    try:
        return answer.json()
    except ValueError:
        kind = answer.headers.get("content-type", "no content type")
        raise SourceError(f"{shown(url)} answered {kind} that is not JSON; check that the URL is the API's") from None
