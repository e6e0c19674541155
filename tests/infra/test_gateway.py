"""The composed stack's gateway by a real nginx: TLS, keys, limits, and the split between two releases."""

import http.client
import json
import math
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from flows.stores import composition
from tests import servers
from tests.bentos.conftest import wait_for
from tests.infra.gateway import KEYS, Gateway, releases, running

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
SIGMAS = 5.0  # one test in a million would be further off


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway before two releases."""
    with ExitStack() as stack:
        behind = stack.enter_context(releases())
        yield stack.enter_context(running(tmp_path_factory.mktemp("gateway"), behind))


def arms(gateway: Gateway, requests: int, **headers: str) -> Counter[str]:
    """Who answered that many requests; no key is used so often that it meets its limit."""
    found: Counter[str] = Counter()
    with gateway.client(None) as client:
        for number in range(requests):
            given = {"authorization": f"Bearer {KEYS[10 + number % 50]}", **headers}
            answer = client.get("/predict", headers=given)
            assert answer.status_code == 200, answer.text
            found[answer.json()["arm"]] += 1
    return found


def test_only_tls_is_spoken(gateway: Gateway) -> None:
    """The certificate is checked by the client; plain HTTP is led to TLS, and TLS 1.1 is refused."""
    with gateway.client() as client:
        assert client.get("/predict").status_code == 200
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{gateway.https}/predict")
    led = httpx.get(f"{gateway.http}/predict?a=1")
    assert (led.status_code, led.headers["location"]) == (308, "https://127.0.0.1/predict?a=1")
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")  # else this side would refuse by itself
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(httpx.ConnectError, match=r"(?i)protocol"):
        httpx.get(f"{gateway.https}/predict", verify=old)


@pytest.mark.parametrize(
    "given",
    [{}, {"authorization": "Bearer"}, {"authorization": f"Bearer {'f' * 64}"}, {"authorization": KEYS[0]}],
    ids=["no key", "an empty one", "an unknown one", "another scheme"],
)
def test_a_stranger_is_refused(gateway: Gateway, given: dict[str, str]) -> None:
    """401 with what to do, and nothing reaches a release."""
    with gateway.client(None) as client:
        refused = client.get("/predict", headers=given)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert "Authorization: Bearer" in refused.json()["error"]


def test_what_steers_a_release_does_not_pass(gateway: Gateway) -> None:
    """Arm, smoke and key of a request from outside are not given on; its path, query and a request id are."""
    with gateway.client(**{"x-bentoflow-arm": "canary", "x-bentoflow-smoke": "1"}) as client:
        seen = client.get("/v2/models/churn/ready?verbose=1").json()
    assert seen["path"] == "/v2/models/churn/ready?verbose=1"
    assert not {"authorization", "x-bentoflow-arm", "x-bentoflow-smoke"} & seen["headers"].keys()
    assert len(seen["headers"]["x-request-id"]) == 32
    operator = httpx.get(f"{gateway.operations}/candidate/predict?a=1", headers={"x-bentoflow-arm": "champion"}).json()
    assert (operator["arm"], operator["path"]) == ("candidate", "/predict?a=1")
    assert operator["headers"]["x-bentoflow-arm"] == "champion", "who runs the stack may"


@pytest.mark.parametrize("path", ["/", "/metrics", "/retrain", "/drift-check", "/docs.json", "/readyz", "/predictions"])
def test_nothing_but_predictions_passes(gateway: Gateway, path: str) -> None:
    """Metrics, pages, probes and admin routes stay inside, also for who has a key."""
    with gateway.client() as client:
        closed = client.get(path)
    assert (closed.status_code, closed.json()) == (404, {"error": "only predictions are answered here"})


def test_a_large_body_is_refused_before_it_comes(gateway: Gateway) -> None:
    """By what it declares: not a byte of it needs to be sent."""
    host = gateway.https.removeprefix("https://")
    connection = http.client.HTTPSConnection(host, context=gateway.trust, timeout=20)
    connection.putrequest("POST", "/predict")
    connection.putheader("authorization", f"Bearer {KEYS[0]}")
    connection.putheader("content-length", str(33 * 2**20))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_a_key_that_asks_too_often_is_told_so_and_no_other_is(gateway: Gateway) -> None:
    """429 with when to come again, after the burst; whoever has another key does not notice."""
    with gateway.client(KEYS[1]) as hasty, gateway.client(KEYS[2]) as calm:
        answered = 0
        while (answer := hasty.get("/predict")).status_code == 200 and answered < 3_000:
            answered += 1
        assert answered >= 200, "the burst"
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert calm.get("/predict").status_code == 200


@pytest.mark.parametrize("percent", [10, 50])
def test_the_split_has_the_shares_that_were_asked_for(gateway: Gateway, percent: int) -> None:
    """Requests are drawn as independent ones are: the candidate's number is within its binomial bounds."""
    composition.lead(gateway.stack, percent)
    n, weight = 2_000, percent / 100
    found = arms(gateway, n)["candidate"]
    assert abs(found - n * weight) <= SIGMAS * math.sqrt(n * weight * (1 - weight)), found


def test_all_or_nothing_is_exact(gateway: Gateway) -> None:
    """No request strays at 0 and at 100 %."""
    for percent, arm in ((100, "candidate"), (0, "service")):
        composition.lead(gateway.stack, percent)
        assert arms(gateway, 200) == {arm: 200}


def test_a_key_of_the_caller_keeps_its_release(gateway: Gateway) -> None:
    """The same x-bentoflow-key meets the same release, and at a larger share those stay that were there."""
    took: dict[int, set[str]] = {}
    for percent in (20, 60):
        composition.lead(gateway.stack, percent)
        took[percent] = {f"k{i}" for i in range(150) if arms(gateway, 1, **{"x-bentoflow-key": f"k{i}"})["candidate"]}
        for key in ("k1", "k2", "k3"):
            assert len(arms(gateway, 20, **{"x-bentoflow-key": key})) == 1
    assert took[20] < took[60]
    assert abs(len(took[60]) - 90) <= SIGMAS * 6


def test_a_change_of_shares_fails_no_request(gateway: Gateway) -> None:
    """Under load from several clients, sixty changes: every request is answered."""
    failed: list[object] = []
    counts: list[int] = []
    over = threading.Event()

    def ask(key: str) -> None:
        with gateway.client(key) as client:
            number = 0
            while not over.wait(0.012):  # below the limit
                number += 1
                try:
                    answer = client.get("/predict")
                except httpx.HTTPError as error:
                    failed.append(error)
                else:
                    failed.extend([answer.text] if answer.status_code != 200 else [])
        counts.append(number)

    threads = [threading.Thread(target=ask, args=(key,)) for key in KEYS[3:7]]
    for thread in threads:
        thread.start()
    try:
        for turn in range(60):
            composition.lead(gateway.stack, 50 * (turn % 3))
            over.wait(0.05)
    finally:
        over.set()
        for thread in threads:
            thread.join(timeout=30)
    assert failed == []
    assert len(counts) == 4
    assert min(counts) > 5


def test_without_a_release_the_gateway_says_so(tmp_path: Path) -> None:
    """503 with when to come again, not a page of nginx's."""
    nobody = f"127.0.0.1:{servers.free_port()}"
    with running(tmp_path, {"service": nobody, "candidate": nobody}) as gateway, gateway.client() as client:
        answer = client.get("/predict")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.json() == {"error": "no release answers now"}


def test_the_log_has_lines_that_programs_read_and_no_key(gateway: Gateway) -> None:
    """JSON with the client's name, who answered and how long it took."""
    composition.lead(gateway.stack, 0)
    arms(gateway, 1)

    def last() -> tuple[str, str, int]:  # of the requests; nginx writes a line after it has answered
        lines = [line for line in gateway.log.read_text().splitlines() if '"path":"/predict"' in line]
        found = json.loads(lines[-1])
        return found["client"], found["arm"], found["status"]

    wait_for(lambda: last() == ("c10", "service", 200), seconds=10, what="the line of the last request")
    text = gateway.log.read_text()
    assert not [key for key in KEYS if key in text]
