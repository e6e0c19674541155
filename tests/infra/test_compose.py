"""The composed stack as Compose itself reads it: valid, hardened, nothing published or secret that should not be.

Each rule is shown to find an error that is planted for it. What runs is in test_gateway.py and test_composed.py.
"""

import copy
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.infra import composing
from tests.infra.gateway import COMPOSE, init

Project = dict[str, Any]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The whole stack, both releases included, with every variable resolved."""
    return composing.resolved(tmp_path_factory.mktemp("resolved"))


def test_the_stack_breaks_no_rule(project: Project) -> None:
    """Compose accepts it, and so do all rules of our own."""
    assert composing.problems(project) == []
    assert len(project["services"]) == 12


def put(target: Mapping[str, Any], name: str, value: Any) -> None:
    """Set a key."""
    dict.__setitem__(target, name, value)  # type: ignore[arg-type]


def drop(target: dict[str, Any], name: str) -> None:
    """Leave a key out."""
    del target[name]


PLANTED: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("images_are_digests", lambda s: put(s["grafana"], "image", "grafana/grafana:12"), "grafana: image"),
    ("containers_are_hardened", lambda s: drop(s["gateway"], "read_only"), "gateway: read_only"),
    ("containers_are_hardened", lambda s: put(s["valkey"], "cap_add", ["CHOWN"]), "valkey: cap_add"),
    ("containers_are_hardened", lambda s: put(s["worker"], "user", "0:0"), "worker: user"),
    ("containers_are_hardened", lambda s: put(s["mlflow"], "privileged", True), "mlflow: privileged"),
    ("containers_are_bounded", lambda s: drop(s["postgres"], "mem_limit"), "postgres: mem_limit"),
    ("containers_are_bounded", lambda s: drop(s["prefect"]["logging"]["options"], "max-size"), "prefect: logging"),
    ("containers_are_checked", lambda s: drop(s["exporter"], "healthcheck"), "exporter: no health check"),
    ("containers_are_checked", lambda s: put(s["service"], "restart", "no"), "service: restart"),
    (
        "ports_are_published_on_purpose",
        lambda s: put(s["mlflow"]["ports"][0], "host_ip", "0.0.0.0"),
        "mlflow publishes 5000 to 0.0.0.0",
    ),
    (
        "ports_are_published_on_purpose",
        lambda s: put(s["grafana"], "networks", {"watch": None}),
        "grafana publishes 3001, and has no network that reaches out",
    ),
    (
        "networks_keep_apart",
        lambda s: put(s["service"]["networks"], "edge", None),
        "service can reach out",
    ),
    (
        "networks_keep_apart",
        lambda s: put(s["gateway"]["networks"], "database", None),
        "gateway and postgres share a network",
    ),
    ("names_are_reachable", lambda s: drop(s["mlflow"]["networks"], "loop"), "worker names mlflow:5000"),
    (
        "names_are_reachable",
        lambda s: put(s["grafana"]["environment"], "PROMETHEUS_URL", "http://prom:9090"),
        "prom:9090",
    ),
    (
        "addresses_stay",
        lambda s: put(s["service"]["networks"], "serving", None),
        "gateway looks for service at 10.231.77.250, it is at any address",
    ),
    (
        "addresses_stay",
        lambda s: s["gateway"]["extra_hosts"].remove("candidate=10.231.77.251"),
        "gateway looks for candidate at None",
    ),
    (
        "addresses_stay",
        lambda s: drop(s["valkey"]["networks"]["serving"], "ipv4_address"),
        "candidate looks for valkey at 10.231.77.249, it is at any address",
    ),
    (
        "addresses_stay",
        lambda s: put(s["candidate"]["networks"]["serving"], "ipv4_address", "10.231.77.20"),
        "candidate has 10.231.77.20, which is not its own of 10.231.77.0/24",
    ),
    ("mounts_are_there", lambda s: put(s["gateway"]["volumes"][0], "source", "/nowhere"), "gateway mounts /nowhere"),
    (
        "mounts_are_there",
        lambda s: put(s["prometheus"]["volumes"][3], "read_only", True),
        "prometheus cannot write to /prometheus",
    ),
    ("mounts_are_there", lambda s: put(s["gateway"]["volumes"][1], "read_only", False), "gateway may write"),
    (
        "no_engine_is_given_away",
        lambda s: s["worker"]["volumes"].append(
            {"type": "bind", "source": "/var/run/docker.sock", "target": "/var/run/docker.sock"}
        ),
        "worker is given the engine",
    ),
    (
        "waits_are_for_health",
        lambda s: put(s["worker"]["depends_on"]["valkey"], "condition", "service_started"),
        "valkey",
    ),
]


@pytest.mark.parametrize(("rule", "plant", "told"), PLANTED, ids=[f"{rule}: {told}" for rule, _, told in PLANTED])
def test_a_planted_error_is_found(project: Project, rule: str, plant: Callable[[Any], Any], told: str) -> None:
    """The rule that is meant for it says what is wrong and where."""
    changed = copy.deepcopy(project)
    plant(changed["services"])
    assert [text for text in composing.RULES[rule](changed) if told in text], composing.RULES[rule](changed)


def test_every_rule_has_an_error_planted_for_it() -> None:
    """No rule goes unproven."""
    assert {rule for rule, _, _ in PLANTED} == set(composing.RULES)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("mem_limit: 256m", "memory_limit: 256m", "gateway"),
        ("networks: [database]", "networks: [databases]", "databases"),
        ("postgres: {condition: service_healthy}", "postgres: {condition: healthy}", "postgres"),
        ("pids_limit: 256", "pids_limit: many", "pids_limit"),
    ],
)
def test_compose_refuses_what_is_no_such_file(tmp_path: Path, before: str, after: str, told: str) -> None:
    """Unknown keys, networks that nobody declared and values of another type are found by the Compose specification."""
    text = (COMPOSE / "compose.yaml").read_text()
    assert before in text
    (tmp_path / "compose.yaml").write_text(text.replace(before, after))
    with pytest.raises(subprocess.CalledProcessError) as failed:
        composing.resolved(tmp_path, tmp_path / "compose.yaml")
    assert told in failed.value.stderr


def test_every_variable_is_required_or_harmless(tmp_path: Path) -> None:
    """Secrets, images and folders have no default: without one of them Compose ends, and says what to run."""
    text = (COMPOSE / "compose.yaml").read_text()
    defaults = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", text))
    required = set(re.findall(r"\$\{([A-Z_]+):\?run init\.py\}", text))
    assert required | defaults.keys() == set(re.findall(r"(?<!\$)\$\{?([A-Z_]+)", text))
    assert not [name for name in defaults if re.search("PASSWORD|SECRET|KEY|TOKEN|IMAGE|DATA", name)]
    assert {name for name in required if name.endswith("_PASSWORD")} == set(init().SECRETS)
    assert {name for name in required if name.endswith("_IMAGE")} == {
        *init().IMAGES,
        *("FLOWS_IMAGE", "SERVICE_IMAGE", "CANDIDATE_IMAGE"),
    }
    for name in sorted(required):
        with pytest.raises(subprocess.CalledProcessError) as failed:
            composing.resolved(tmp_path, without=name)
        assert f"required variable {name} is missing a value: run init.py" in failed.value.stderr


def test_the_worker_can_be_left_to_the_host(project: Project, tmp_path: Path) -> None:
    """`WORKERS=0` in .env leaves the stack without one, whatever is said to Compose later."""
    given = tmp_path / "given"
    given.write_text("".join(f"{name}={value}\n" for name, value in {**composing.made(tmp_path), "WORKERS": 0}.items()))
    assert project["services"]["worker"]["scale"] == 1
    assert composing.resolved(tmp_path, given=given)["services"]["worker"]["scale"] == 0


def test_init_asks_an_engine_that_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Docker client without its daemon is none; Podman is taken then, and nothing where neither is there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert init().engine() is None
    for name, code in (("docker", 1), ("podman", 0)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    assert init().engine() == "podman"
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 0\n")
    assert init().engine() == "docker"


def test_init_is_for_those_who_may_give_folders_to_the_containers_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody else is told so before anything is written."""
    monkeypatch.setattr(sys, "argv", ["init.py", str(tmp_path / "data")])
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    with pytest.raises(SystemExit, match="run this as root or as the user 10001, to whom the containers' data belong"):
        init().main()
    assert list(tmp_path.iterdir()) == []


def test_init_makes_what_is_missing_and_keeps_the_rest(tmp_path: Path) -> None:
    """Secrets of their own, private files, each mounted folder; again changes nothing, and no secret is printed."""
    here, data = tmp_path / "compose", tmp_path / "data"
    here.mkdir()
    text = (COMPOSE / "init.py").read_text()
    owner = 10001 if os.geteuid() == 0 else os.geteuid()  # without root a user can own the folders, but not give them
    assert text.count("UID = 10001\n") == 1
    (here / "init.py").write_text(text.replace("UID = 10001\n", f"UID = {owner}\n"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "openssl").symlink_to(shutil.which("openssl") or "openssl")
    digest = "registry.example.org/bentoflow-flows@sha256:" + "ab" * 32

    def say(*arguments: str) -> str:
        command = [sys.executable, str(here / "init.py"), str(data), *arguments]
        env = {"PATH": str(tmp_path / "bin")}  # no engine: nothing is looked up
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout

    first = say("--flows-image", digest)
    assert "still to be written there, as repository@sha256:…: ALERTMANAGER_IMAGE" in first
    file = here / ".env"
    made = composing.variables(file)
    found = [made[name] for name in init().SECRETS]
    assert len(set(found)) == len(found)
    assert min(map(len, found)) >= 32
    key = (data / "gateway" / "keys.conf").read_text()
    assert re.fullmatch(r'"Bearer [0-9a-f]{64}" first;\n', key)
    assert made["FLOWS_IMAGE"] == digest
    for path in (file, data / "gateway" / "keys.conf", data / "gateway" / "tls" / "tls.key"):
        assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o600, owner), path
    with file.open("a") as lines:
        lines.writelines(f"{name}=kept.example.org/x@sha256:{'0' * 64}\n" for name in init().IMAGES)
    before = file.read_text()
    again = say("--flows-image", "another")
    assert file.read_text() == before
    assert (data / "gateway" / "keys.conf").read_text() == key
    assert not [secret for secret in [*found, key.split()[1]] if secret in first + again]
    whole = composing.resolved(tmp_path, given=file)
    sources = [v["source"] for s in whole["services"].values() for v in s["volumes"]]
    assert [source for source in sources if not Path(source).exists()] == []
    assert orjson.loads((data / "targets" / "service.json").read_text()) == []
