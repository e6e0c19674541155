"""Schemathesis: what the OpenAPI document says of a service holds for whatever is generated from it, good or bad."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from .conftest import Server, Spoken, serving

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own dependencies at import
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.checks import CHECKS, load_all_checks

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    # said when a background thread of another test's server or client draws from `random` while a case is generated
    pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies"),
]
load_all_checks()
KEPT = CHECKS.get_by_names(["status_code_conformance", "content_type_conformance", "response_schema_conformance"])
REJECTED = CHECKS.get_by_names(["negative_data_rejection"])  # for JSON: any text is a text, be it CSV or not
each = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def churn_schema(spoken: Spoken) -> Any:
    """The document of a service with a release."""
    return schemathesis.openapi.from_url(f"{spoken.url}/docs.json")


@pytest.fixture(scope="module")
def fraud_server(tmp_path_factory: pytest.TempPathFactory, spoken: Spoken) -> Iterator[Server]:
    """The other service, without a release: what it would answer is a 503, what it refuses is not."""
    home: Path = tmp_path_factory.mktemp("fraud")
    with serving(home, spoken.models, log=home / "log", env={"BENTOFLOW_USE_CASE": "fraud"}) as server:
        yield server


@pytest.fixture(scope="module")
def fraud_schema(fraud_server: Server) -> Any:
    """Its document."""
    return schemathesis.openapi.from_url(f"{fraud_server.url}/docs.json")


def holds(case: Any) -> None:
    """A generated request gets an answer of a documented status, media type and shape; of all 5xx only a 503."""
    response = case.call(timeout=30)
    assert response.status_code < 500 or (response.status_code == 503 and response.headers["retry-after"])
    case.validate_response(response, checks=KEPT + REJECTED if "json" in str(case.media_type) else KEPT)


@pytest.mark.parametrize("kind", list(GenerationMode))
@pytest.mark.parametrize("name", ["churn_schema", "fraud_schema"])
def test_a_service_keeps_to_its_document(request: pytest.FixtureRequest, name: str, kind: GenerationMode) -> None:
    """Every operation, with requests as its schema has them and such that break it."""
    schema, seen = request.getfixturevalue(name), set()
    for operation in (found.ok() for found in schema.get_all_operations()):
        if kind == GenerationMode.NEGATIVE and not operation.body:
            continue  # nothing of it can be wrong: a text in a path is a text

        @each
        @given(case=operation.as_strategy(generation_mode=kind))
        def run(case: Any) -> None:
            holds(case)

        run()
        seen.add(operation.path)
    assert "/predict" in seen
