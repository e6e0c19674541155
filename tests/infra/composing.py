"""The composed stack resolved by Compose itself, offline, and rules for it; each rule gives what is wrong in words."""

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from itertools import combinations
from pathlib import Path
from typing import Any

import orjson

from tests.infra import tools
from tests.infra.gateway import COMPOSE, init

Project = dict[str, Any]
Service = dict[str, Any]
DIGEST = re.compile(r"[a-z0-9][a-z0-9./:-]*@sha256:[0-9a-f]{64}")
ADDRESS = re.compile(r"(?:@|//)([a-z]+):(\d+)")
PUBLIC = {"gateway": {"8080", "8443"}}  # all other ports are for this host alone
REACHES_OUT = {"gateway", "worker", "prefect", "mlflow", "alertmanager", "grafana"}
WRITES = {"/var/lib/bentoflow", "/var/lib/postgresql/data", "/data", "/prometheus", "/alertmanager", "/var/lib/grafana"}
ASKED = (("gateway", "service"), ("gateway", "candidate"), ("service", "valkey"), ("candidate", "valkey"))
JOURNAL = "/var/lib/bentoflow/journal"
ENGINE = ("docker.sock", "podman", "containerd", "/proc", "/sys", "/dev")


def variables(path: Path) -> dict[str, str]:
    """The lines of an .env."""
    pairs = (line.partition("=") for line in path.read_text().splitlines())
    return {name: value for name, _, value in pairs}


def made(folder: Path) -> dict[str, str]:
    """Variables such as init.py writes, the images' digests made up."""
    image = "registry.example.org/{}@sha256:" + "ab" * 32
    names = [*init().IMAGES, "FLOWS_IMAGE", "SERVICE_IMAGE", "CANDIDATE_IMAGE"]
    return {
        "BENTOFLOW_DATA": str(folder / "data"),
        "USE_CASE": "churn",
        "COMPOSE_PROFILES": "service,candidate",
        **{name: image.format(name.lower().replace("_", "-")) for name in names},
        **{name: f"secret{number}" for number, name in enumerate(init().SECRETS)},
    }


def resolved(
    folder: Path, file: Path = COMPOSE / "compose.yaml", without: str = "", given: Path | None = None
) -> Project:
    """The file with its variables resolved; CalledProcessError with Compose's words if it breaks the specification."""
    env = folder / "variables"
    chosen = variables(given) if given else made(folder)
    env.write_text("".join(f"{name}={value}\n" for name, value in chosen.items() if name != without))
    options = ["--file", file, "--env-file", env, "--project-directory", COMPOSE]
    options += ["--profile", "service", "--profile", "candidate"]
    found: Project = orjson.loads(tools.run(tools.compose(), *options, "config", "--format", "json"))
    return found


def each(project: Project) -> Iterator[tuple[str, Service]]:
    """Every service with its name."""
    yield from project["services"].items()


def outward(project: Project) -> set[str]:
    """Networks from which a container reaches other hosts."""
    return {name for name, network in project["networks"].items() if not network.get("internal")}


def images_are_digests(project: Project) -> list[str]:
    """No tag, which may become another image at any time."""
    return [f"{name}: image {s['image']}" for name, s in each(project) if not DIGEST.fullmatch(s["image"])]


def containers_are_hardened(project: Project) -> list[str]:
    """The numeric user, a read-only root, no capability and none to be gained."""
    wanted = {
        "user": "10001:10001",
        "read_only": True,
        "cap_drop": ["ALL"],
        "cap_add": None,
        "privileged": None,
        "security_opt": ["no-new-privileges:true"],
        "pid": None,
        "ipc": None,
        "network_mode": None,
    }
    found = [(name, key, s.get(key)) for name, s in each(project) for key in wanted]
    return [f"{name}: {key} is {value}" for name, key, value in found if value != wanted[key]]


def containers_are_bounded(project: Project) -> list[str]:
    """Memory, processors, processes, open files and logs have a limit."""
    wrong = []
    for name, service in each(project):
        limits = ("mem_limit", "cpus", "pids_limit")
        wrong += [f"{name}: {limit} is not set" for limit in limits if not service.get(limit)]
        wrong += [f"{name}: ulimits lack {part}" for part in ("nofile", "nproc") if part not in service["ulimits"]]
        wrong += [] if service["logging"].get("options", {}).get("max-size") else [f"{name}: logging has no max-size"]
    return wrong


def containers_are_checked(project: Project) -> list[str]:
    """Every container has a health check and starts again by itself."""
    wrong = [f"{name}: no health check" for name, s in each(project) if not s.get("healthcheck", {}).get("test")]
    return wrong + [
        f"{name}: restart is {s.get('restart')}" for name, s in each(project) if s["restart"] != "unless-stopped"
    ]


def ports_are_published_on_purpose(project: Project) -> list[str]:
    """Only the gateway is reached from other hosts; what is published has a network that reaches out."""
    wrong = []
    for name, service in each(project):
        for port in service.get("ports", ()):
            if port.get("host_ip") != "127.0.0.1" and str(port["target"]) not in PUBLIC.get(name, ()):
                wrong.append(f"{name} publishes {port['published']} to {port.get('host_ip', 'everybody')}")
            if not outward(project) & service["networks"].keys():
                wrong.append(f"{name} publishes {port['published']}, and has no network that reaches out")
    return wrong


def networks_keep_apart(project: Project) -> list[str]:
    """Releases and stores reach no other host; the database is met by its two servers alone."""
    networks = {name: set(s["networks"]) for name, s in each(project)}
    wrong = [
        f"{name} can reach out"
        for name, found in networks.items()
        if found & outward(project) and name not in REACHES_OUT
    ]
    for one, other in combinations(networks, 2):
        pair = {one, other}
        inside = networks[one] & networks[other] - outward(project)
        if inside and "postgres" in pair and not pair & {"prefect", "mlflow"}:
            wrong.append(f"{one} and {other} share a network")
    return wrong


def names_are_reachable(project: Project) -> list[str]:
    """Whatever address a variable names is a service on a common network."""
    wrong = []
    for name, service in each(project):
        for text in service.get("environment", {}).values():
            for host, port in ADDRESS.findall(text or ""):
                there = project["services"].get(host, {}).get("networks", {})
                if not there.keys() & service["networks"].keys() - outward(project):
                    wrong.append(f"{name} names {host}:{port}, which it does not reach")
    return wrong


def addresses_stay(project: Project) -> list[str]:
    """What answers a request is looked for where it is, and no other container can be given its address."""
    [config] = project["networks"]["serving"]["ipam"]["config"]
    given, wrong = ip_network(config["ip_range"]), []
    for client, name in ASKED:
        looked_for = dict(line.split("=") for line in project["services"][client].get("extra_hosts", ()))
        address = (project["services"][name]["networks"].get("serving") or {}).get("ipv4_address", "")
        if looked_for.get(name) != address:
            wrong.append(f"{client} looks for {name} at {looked_for.get(name)}, it is at {address or 'any address'}")
        if address and (ip_address(address) in given or ip_address(address) not in ip_network(config["subnet"])):
            wrong.append(f"{name} has {address}, which is not its own of {config['subnet']}")
    return wrong


def mounts_are_there(project: Project) -> list[str]:
    """Files of the repository exist and are mounted read-only; each container writes where it must and nowhere else."""
    data, wrong = Path(made(Path())["BENTOFLOW_DATA"]).name, []
    for name, service in each(project):
        for mount in service["volumes"]:
            source, target, fixed = mount["source"], mount["target"], bool(mount.get("read_only"))
            ours = f"/{data}/" not in source
            if ours and not Path(source).exists():
                wrong.append(f"{name} mounts {source}, which is not there")
            if fixed and target in WRITES:
                wrong.append(f"{name} cannot write to {target}")
            if not fixed and target not in {*WRITES, JOURNAL}:
                wrong.append(f"{name} may write to {target}")
    return wrong


def no_engine_is_given_away(project: Project) -> list[str]:
    """A container that has the engine's socket is root on the host."""
    mounts = [(name, mount["source"]) for name, s in each(project) for mount in s["volumes"]]
    return [f"{name} is given the engine by {source}" for name, source in mounts if any(p in source for p in ENGINE)]


def waits_are_for_health(project: Project) -> list[str]:
    """Who needs a server waits until it answers; Grafana draws when Prometheus is there."""
    waits = [(n, on, how["condition"]) for n, s in each(project) for on, how in s.get("depends_on", {}).items()]
    return [f"{n} waits for {on} to be {how}" for n, on, how in waits if how != "service_healthy" and n != "grafana"]


RULES: dict[str, Callable[[Project], list[str]]] = {
    rule.__name__: rule
    for rule in (
        images_are_digests,
        containers_are_hardened,
        containers_are_bounded,
        containers_are_checked,
        ports_are_published_on_purpose,
        networks_keep_apart,
        names_are_reachable,
        addresses_stay,
        mounts_are_there,
        no_engine_is_given_away,
        waits_are_for_health,
    )
}


def problems(project: Project) -> list[str]:
    """What any rule finds."""
    return [text for rule in RULES.values() for text in rule(project)]
