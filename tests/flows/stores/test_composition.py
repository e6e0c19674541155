"""A composed stack's variables and shares; what Compose itself does is in tests/infra and tests/container."""

import json
from pathlib import Path

import pytest

from flows.errors import StackError
from flows.settings import Settings
from flows.stores import composition
from flows.stores.composition import Stack

ENV = "# the stack\nBENTOFLOW_DATA=/srv/x\nUSE_CASE=churn\n\nSERVICE_IMAGE=a@sha256:1\nCOMPOSE_PROFILES=\n"
CALLED = """#!/bin/sh
printf '%s\\n' "$*" >> {log}
case "$*" in *"{fails}"*) echo "no such thing" >&2; exit 3;; esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a stack."""
    (tmp_path / ".env").write_text(ENV)
    return tmp_path


def stack(folder: Path, fails: str = "@@@") -> Stack:
    """That stack, with a command in the place of Compose that keeps what it was asked, and fails where it is to."""
    command = folder / "compose"
    command.write_text(CALLED.format(log=folder / "log", fails=fails))
    command.chmod(0o755)
    for name in ("targets", "gateway/share"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return Stack(folder, (str(command),), {**composition.read(folder / ".env"), "BENTOFLOW_DATA": str(folder)})


def targets(folder: Path) -> list[str]:
    """What Prometheus is told to scrape."""
    return [
        target for group in json.loads((folder / "targets" / "service.json").read_text()) for target in group["targets"]
    ]


def test_variables_change_and_all_else_stays(folder: Path) -> None:
    """Comments, order and other variables are kept, a new one is added, and the file stays private."""
    (folder / ".env").chmod(0o600)
    changed = composition.put(stack(folder), SERVICE_IMAGE="b@sha256:2", NEW="1")
    assert (folder / ".env").read_text() == ENV.replace("a@sha256:1", "b@sha256:2") + "NEW=1\n"
    assert (changed.variables["SERVICE_IMAGE"], changed.variables["USE_CASE"]) == ("b@sha256:2", "churn")
    assert (folder / ".env").stat().st_mode & 0o777 == 0o600


def test_a_place_is_taken_and_left(folder: Path) -> None:
    """Image and profile are in the variables, so that any `compose up` does the same; Prometheus sees who is there."""
    begun = composition.start(stack(folder), "service", "b@sha256:2", say=print)
    both = composition.start(begun, "candidate", "c@sha256:3", say=print)
    assert composition.places(both) == {"service", "candidate"}
    assert composition.read(folder / ".env")["COMPOSE_PROFILES"] == "candidate,service"
    assert targets(folder) == ["candidate:3000", "service:3000"]
    left = composition.stop(both, "candidate", say=print)
    found = composition.read(folder / ".env")
    assert (found["CANDIDATE_IMAGE"], found["COMPOSE_PROFILES"]) == (composition.NOBODY, "service")
    assert targets(folder) == ["service:3000"]
    asked = (folder / "log").read_text().splitlines()
    assert composition.stop(left, "candidate", say=print) == left
    assert (folder / "log").read_text().splitlines() == asked, "nothing is done twice"


def test_what_does_not_start_can_be_taken_away(folder: Path) -> None:
    """The error has Compose's words; the place counts as taken, so that it is emptied afterwards."""
    with pytest.raises(StackError, match=r"starting c@sha256:3 as candidate failed with 3[\s\S]*no such thing"):
        composition.start(stack(folder, fails=" up "), "candidate", "c@sha256:3", say=print)
    left = composition.stop(stack(folder), "candidate", say=print)
    assert composition.places(left) == set()


@pytest.mark.parametrize("percent", [0, 1, 37, 100, 10])
def test_a_share_is_so_many_buckets(folder: Path, percent: int) -> None:
    """One file for each percent, the same ones first; a smaller share afterwards takes files away."""
    composition.lead(stack(folder), 50)
    composition.lead(stack(folder), percent)
    found = sorted(path.name for path in (folder / "gateway" / "share").iterdir())
    assert found == [f"{number:02d}" for number in range(percent)]


@pytest.mark.parametrize("percent", [-1, 101])
def test_no_share_is_larger_than_all(folder: Path, percent: int) -> None:
    """Nor smaller than nothing."""
    with pytest.raises(StackError, match=f"not {percent}"):
        composition.lead(stack(folder), percent)


def test_a_stack_must_be_there_and_of_the_use_case(folder: Path) -> None:
    """Each error says what to do; the default is the repository's own."""
    assert (Settings().compose / "compose.yaml").is_file()
    with pytest.raises(StackError, match=r"no .*\.env: make it with `python3 .*init.py`"):
        composition.find(Settings(compose=folder / "nowhere"), "churn")
    with pytest.raises(StackError, match="serves 'churn', not 'fraud'"):
        composition.find(Settings(compose=folder), "fraud")
    (folder / ".env").write_text("USE_CASE=churn\n")
    with pytest.raises(StackError, match="has no BENTOFLOW_DATA"):
        composition.find(Settings(compose=folder), "churn")


def test_without_compose_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For either engine."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match="install podman-compose"):
        composition.compose("podman")
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    with pytest.raises(StackError, match="install the plugin `docker compose`"):
        composition.compose("docker")
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 0\n")
    assert composition.compose("docker") == ("docker", "compose")
