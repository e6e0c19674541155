"""Container engines: the one that is there is used, a failure shows its last lines, a fault of the network passes."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from flows.errors import ImageError
from flows.stores import engines
from flows.stores.engines import Engine

Tools = Callable[..., None]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    """Puts executables of these names, and no others, on the path; each is a shell script."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(**scripts: str) -> None:
        for name, script in scripts.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)

    return put


def test_docker_comes_first_only_if_its_daemon_answers(tools: Tools) -> None:
    """A client alone is no engine: then Podman builds, then Buildah with Podman to run."""
    tools(docker="exit 0", podman="", buildah="")
    assert engines.find() == Engine(builder="docker", runner="docker")
    tools(docker="echo Cannot connect to the Docker daemon >&2; exit 1")
    assert engines.find() == Engine(builder="podman", runner="podman")
    assert engines.find("buildah") == Engine(builder="buildah", runner="podman")
    with pytest.raises(ImageError, match="no daemon answers"):
        engines.find("docker")


def test_without_an_engine_the_error_says_what_to_install(tools: Tools) -> None:
    """None at all, one that is named but missing, and Buildah alone, which cannot run what it builds."""
    with pytest.raises(ImageError, match="no container engine found: install Docker, Podman or Buildah"):
        engines.find()
    with pytest.raises(ImageError, match="no podman found"):
        engines.find("podman")
    tools(buildah="")
    with pytest.raises(ImageError, match="install Podman too"):
        engines.find()


def test_a_failure_shows_the_last_lines_and_no_password() -> None:
    """Exit code and the end of the output are in the error, every line was shown, and a URL's password in none."""
    shown: list[str] = []
    script = (
        "for i in range(40): print('step', i)\nprint('GET https://me:hunter2@host/simple failed'); raise SystemExit(3)"
    )
    with pytest.raises(ImageError) as raised:
        engines.call([sys.executable, "-c", script], say=shown.append, what="building")
    text = str(raised.value)
    assert text.startswith("building failed with 3")
    assert "step 39" in text
    assert "step 9\n" not in text
    assert "https://…@host/simple failed" in text
    assert len(shown) == 41
    assert "hunter2" not in text + "".join(shown)


def test_an_interrupt_ends_what_the_builder_started() -> None:
    """Ctrl-C while it builds: neither the command nor its children go on."""
    started: list[int] = []

    def interrupted(line: str) -> None:
        started.append(int(line))
        raise KeyboardInterrupt

    script = "import os, subprocess as s; print(s.Popen(['sleep', '60']).pid, flush=True); os.wait()"
    with pytest.raises(KeyboardInterrupt):
        engines.call([sys.executable, "-c", script], say=interrupted)
    with suppress(psutil.NoSuchProcess):
        psutil.Process(started[0]).wait(timeout=10)  # TimeoutExpired if it goes on


def test_a_tool_that_is_not_there_is_an_error_of_ours(tmp_path: Path) -> None:
    """Starting it fails with its name."""
    with pytest.raises(ImageError, match="cosign sign could not be started"):
        engines.call([str(tmp_path / "cosign")], what="cosign sign")


@pytest.mark.parametrize("failures", [0, 1, 3])
def test_a_fault_of_the_network_passes(failures: int) -> None:
    """Up to as many failures as there are delays, the result comes through."""
    left = [ImageError("received unexpected HTTP status: 502 Bad Gateway")] * failures

    def attempt() -> str:
        if left:
            raise left.pop()
        return "done"

    assert engines.persistently(attempt, lambda line: None, (0.0, 0.0, 0.0)) == "done"
    assert not left


@pytest.mark.parametrize("reason", ["unauthorized: authentication required", "manifest unknown", "denied: no access"])
def test_what_no_attempt_changes_is_not_tried_again(reason: str) -> None:
    """A refusal is raised at once; a fault that never passes after the last delay."""
    tried: list[str] = []

    def attempt() -> None:
        tried.append(reason)
        raise ImageError(reason)

    with pytest.raises(ImageError, match=reason):
        engines.persistently(attempt, lambda line: None, (0.0, 0.0))
    assert len(tried) == 1
    reason = "connection reset by peer"
    with pytest.raises(ImageError, match="reset"):
        engines.persistently(attempt, lambda line: None, (0.0, 0.0))
    assert len(tried) == 4


def test_a_question_may_be_answered_with_no() -> None:
    """A failing command gives None, another its standard output alone."""
    assert engines.ask([sys.executable, "-c", "raise SystemExit(1)"]) is None
    assert (
        engines.ask([sys.executable, "-c", "import sys; print('x'); print('y', file=sys.stderr)"]) == f"x{os.linesep}"
    )
