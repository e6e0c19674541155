"""Errors that a server caused, told as what they are; everything else is left as it is."""

import httpx
import psycopg2
import pytest
import redis
import requests

from flows.errors import ServerError, StoreError
from flows.servers import blamed, named
from tests.servers import free_port

SECRET = "opensesame"


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> int:
    """A port where nobody listens, which every setting names."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    monkeypatch.setenv("BENTOFLOW_ONLINE_STORE", f"redis://:{SECRET}@{address}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql+psycopg2://me:{SECRET}@{address}/mlflow")
    monkeypatch.setenv("PREFECT_API_URL", f"http://{address}/api")
    return port


def test_each_server_is_named_by_its_setting(nowhere: int) -> None:
    """Through any number of errors that others made of it; never with a password."""

    @named
    def online() -> None:
        redis.Redis(port=nowhere).ping()

    @named
    def database() -> None:
        try:
            psycopg2.connect(f"postgresql://me:{SECRET}@127.0.0.1:{nowhere}/mlflow", connect_timeout=2)
        except psycopg2.OperationalError as error:
            raise StoreError("no version '1' of churn in the registry: run `bentoflow train`") from error

    @named
    def prefect() -> None:
        httpx.get(f"http://127.0.0.1:{nowhere}/api/health")

    @named
    def tracking() -> None:
        requests.get(f"http://127.0.0.1:{nowhere}/api/2.0/mlflow/experiments/search", timeout=2)

    for flow, setting in (
        (online, "BENTOFLOW_ONLINE_STORE"),
        (database, "MLFLOW_TRACKING_URI"),
        (tracking, "MLFLOW_TRACKING_URI"),
        (prefect, "PREFECT_API_URL"),
    ):
        with pytest.raises(ServerError, match=rf"{setting}: 127.0.0.1:{nowhere}") as raised:
            flow()
        assert SECRET not in str(raised.value)


def test_what_no_server_caused_stays_as_it_is(nowhere: int) -> None:
    """An error of ours, a query that is wrong, an error that was hidden on purpose, a request to somebody else."""

    @named
    def refused() -> None:
        raise StoreError("altered")

    with pytest.raises(StoreError, match="altered"):
        refused()
    assert blamed(psycopg2.ProgrammingError("syntax error")) is None
    assert blamed(redis.ResponseError("WRONGTYPE")) is None
    hidden = StoreError("the source")
    hidden.__context__, hidden.__suppress_context__ = redis.ConnectionError("refused"), True
    assert blamed(hidden) is None
    with pytest.raises(httpx.ConnectError) as elsewhere:
        httpx.get(f"http://127.0.0.1:{free_port()}/predict")
    assert blamed(elsewhere.value) is None
