"""The questions that a release workflow asks a deployed service: a sound one passes, each fault is named."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests import deployed
from tests.bentos.conftest import Spoken
from tests.servers import free_port

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]


def asked(url: str) -> subprocess.CompletedProcess[str]:
    """The command as the workflow has it."""
    command = [sys.executable, "-m", "tests.deployed", url]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_sound_service_passes_and_nothing_is_learned_from_it(spoken: Spoken) -> None:
    """All questions are answered, and every row that was asked is marked as no traffic in the journal."""
    before = set(spoken.journalled())
    done = asked(spoken.url)
    assert (done.returncode, done.stdout) == (0, f"{spoken.url} is as it must be\n"), done.stderr
    new = [record for name, record in spoken.journalled().items() if name not in before]
    assert len(new) == deployed.CALLS + 2
    assert all(record["smoke"] for record in new)


def test_a_service_that_is_down_fails() -> None:
    """Exit code 1, and a line for each probe."""
    done = asked(f"http://127.0.0.1:{free_port()}")
    assert (done.returncode, done.stdout) == (1, "/v2/health/live answers 0\n/v2/health/ready answers 0\n"), done.stderr


def test_each_fault_is_named(spoken: Spoken, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that differ between protocols, malformed rows and admin routes that answer, slow calls."""
    sound = httpx.Client.post

    def post(client: httpx.Client, url: str, **how: object) -> httpx.Response:
        answer = sound(client, url, **how)  # type: ignore[arg-type]
        if url.endswith("/infer"):
            answer._content = answer.content.replace(b'"data":[0.', b'"data":[0.9')
        answer.status_code = 200
        return answer

    monkeypatch.setattr(httpx.Client, "post", post)
    monkeypatch.setattr(deployed, "SLOW_S", 0.0)
    found = list(deployed.problems(spoken.url))
    assert [problem.split()[0:3] for problem in found] == [
        ["the", "same", "row"],
        ["a", "malformed", "row"],
        ["/drift-check", "answers", "200"],
        ["one", "of", "20"],
    ]
