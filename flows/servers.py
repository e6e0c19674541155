"""Servers that settings name: an error that one of them caused, in one sentence with what to do."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import wraps
from typing import ParamSpec, TypeVar
from urllib.parse import urlsplit

from bentos.runtime.bucket import BucketError
from flows.errors import ServerError

P = ParamSpec("P")
R = TypeVar("R")

AGAIN = "start it or correct the setting, and run the same again: what is done is not done twice"
# driver -> its errors that are about a server, what that server is, and the settings that may name it
DRIVERS: dict[str, tuple[set[str], str, tuple[str, ...]]] = {
    "redis": ({"ConnectionError", "TimeoutError"}, "the online store", ("BENTOFLOW_ONLINE_STORE",)),
    "psycopg2": (
        {"OperationalError", "InterfaceError"},
        "PostgreSQL",
        ("MLFLOW_TRACKING_URI", "BENTOFLOW_FEATURE_REGISTRY"),
    ),
    "requests": ({"ConnectionError", "Timeout"}, "the MLflow server", ("MLFLOW_TRACKING_URI",)),
    "botocore": (
        {"ConnectionError", "HTTPClientError", "NoCredentialsError"},
        "S3, where MLflow keeps artefacts,",
        ("MLFLOW_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL"),
    ),
}


def named(function: Callable[P, R]) -> Callable[P, R]:
    """A flow that raises ServerError, with the driver's error as its cause, where a server failed it."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if (found := blamed(error)) is None or found is error:
                raise
            raise found from error

    return run


def blamed(error: BaseException) -> ServerError | None:
    """Which server an error is about, by the innermost of its causes that a server's driver raised; None if none is."""
    found = None
    for cause in chain(error):
        if isinstance(cause, ServerError):
            return cause
        found = _server(cause) or found
    return found


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes, the outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _server(error: BaseException) -> ServerError | None:
    driver, text = type(error).__module__.partition(".")[0], _short(error)
    if isinstance(error, BucketError):
        return ServerError(str(error))
    errors, what, variables = DRIVERS.get(driver, (set(), "", ()))
    if errors & {kind.__name__ for kind in type(error).__mro__}:
        return _failed(what, variables, text)
    if type(error).__name__ == "PrefectHTTPStatusError" or (driver == "httpx" and _of_prefect(error)):
        return _failed("the Prefect server or its database", ("PREFECT_API_URL",), text)
    return None


def _failed(what: str, variables: tuple[str, ...], text: str) -> ServerError:
    """The error of a server, with the settings that lead to it as far as they are set; never a password."""
    values = {name: os.environ.get(name, "") for name in variables}
    places = [f"{name}: {_place(url)}" for name, url in values.items() if "://" in url and not url.startswith("sqlite")]
    return ServerError(f"{what} failed ({'; '.join(places) or ', '.join(variables)}): {text}; {AGAIN}")


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _of_prefect(error: BaseException) -> bool:
    """Whether what failed was a request to the Prefect server; a service's or a channel's is none."""
    with suppress(AttributeError, RuntimeError):  # a request is set on most of httpx's errors
        return str(error.request.url).startswith(os.environ.get("PREFECT_API_URL") or "-")  # type: ignore[attr-defined]
    return False


def _short(error: BaseException) -> str:
    """The error's type and text in one line, without credentials of a URL."""
    text = re.sub(r"//[^/\s@]*@", "//***@", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text[:300]}".rstrip(". ")
