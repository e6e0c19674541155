"""A container engine and a registry of the tests' own, on a machine without any: nothing of the user's is touched.

Podman and a plain HTTP registry on the loopback interface, with configuration, storage and state in one folder, and a
stand-in for python:3.11-slim made from Debian 12's packages, as no public image can be assumed to be reachable.
"""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from tests.servers import awaited, free_port

ROOT = Path(__file__).parents[2]
TOOLS = ("podman", "runc", "conmon", "docker-registry", "mmdebstrap", "iptables", "hadolint")
HELPERS = {  # which podman looks for where its own configuration says
    "netavark": ("/usr/lib/podman/netavark", "/usr/libexec/podman/netavark"),
    "catatonit": ("/usr/libexec/podman/catatonit", "/usr/lib/podman/catatonit", "/usr/bin/catatonit"),
}
SUITE, PYTHON = "bookworm", (3, 11)
RECIPE = [
    "--variant=minbase",
    "--include=usr-is-merged,ca-certificates,netbase,tzdata,python3.11-minimal,libpython3.11-stdlib,python3.11-venv,python3-pip-whl",
    *(f"--dpkgopt=path-exclude=/usr/{path}/*" for path in ("share/doc", "share/man", "share/locale")),
    "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",  # else Perl comes to merge it
    '--customize-hook=chroot "$1" python3.11 -m venv /usr/local',
    '--customize-hook=rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin',
    SUITE,
]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OPENSESAME = "$2b$04$bU50VqTeP8jMdrDy6reIQuitTxbQdDAQ7zUKHG1jJRXtxruhYcH/S"  # as htpasswd -B writes it
CERTIFICATES = "/etc/ssl/certs"  # of this machine, which may trust a proxy that packages come through
CONTAINERS = """
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=8192:8192"]
{more}
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
WRAPPER = """#!/bin/sh
# Builds see this machine's certificates, containers that run do not.
[ "$1" = build ] && export CONTAINERS_CONF={folder}/build.conf
exec {podman} "$@"
"""
FILES = {
    "pip.conf": "[global]\ncert=/etc/ssl/certs/ca-certificates.crt\n",
    "uv.toml": "system-certs = true\n",
    "run.conf": CONTAINERS.format(more=""),
    "build.conf": CONTAINERS.format(
        more=f'netns = "host"\nvolumes = ["{CERTIFICATES}:{CERTIFICATES}:ro", '
        '"{folder}/pip.conf:/etc/pip.conf:ro", "{folder}/uv.toml:/etc/uv/uv.toml:ro"]'
    ),
    "storage.conf": '[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n',
    "registries.conf": '[[registry]]\nprefix = "docker.io"\nlocation = "{host}"\ninsecure = true\n',
    "registry.yml": "version: 0.1\nstorage: {filesystem: {rootdirectory: {folder}/registry}}\nhttp: {addr: {host}}\n",
}


@dataclass(frozen=True)
class Machine:
    """The registry's host:port, and the folder of everything."""

    host: str
    folder: Path

    def podman(self, *arguments: str, check: bool = True) -> str:
        """Standard output of a podman command on the tests' own storage."""
        done = subprocess.run(["podman", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0 or not check, f"podman {arguments}: {done.stderr[-2000:]}"
        return done.stdout


def missing() -> str:
    """What of the tools is not there; empty if all are."""
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    lacking += [name for name, places in HELPERS.items() if not any(Path(place).exists() for place in places)]
    lacking += [] if os.geteuid() == 0 else ["root (for overlay mounts and a bridge without further set-up)"]
    lacking += [] if sys.version_info[:2] == PYTHON else ["Python 3.11 (of the stand-in base image)"]
    return ", ".join(lacking)


def require(*more: str) -> None:
    """Fail in CI and skip on a laptop unless every tool is there, `more` of them among them."""
    listed = [missing(), *(tool for tool in more if shutil.which(tool, path=f"{os.environ['PATH']}:{PATH}") is None)]
    if not (lacking := ", ".join(filter(None, listed))):
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI runs the container tests, and lacks {lacking}; .ci/run installs them", pytrace=False)
    pytest.skip(f"container tests need {lacking}; .ci/run names the Debian packages")


def base() -> Path:
    """The base image's files as a tar, made once per recipe and kept below .bentoflow."""
    name = sha256("\n".join(RECIPE).encode()).hexdigest()[:16]
    path = ROOT / ".bentoflow" / "cache" / f"base-{name}.tar"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.stem}.{os.getpid()}.tar")
        try:
            done = subprocess.run(["mmdebstrap", *RECIPE, str(part)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return path


@contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """The engine's environment is set and the registry with the base image answers while this lasts."""
    host, before = f"127.0.0.1:{free_port()}", dict(os.environ)
    real = shutil.which("podman")
    for name, text in FILES.items():
        (folder / name).write_text(text.replace("{folder}", str(folder)).replace("{host}", host))
    wrapper = folder / "bin" / "podman"
    wrapper.parent.mkdir()
    wrapper.write_text(WRAPPER.replace("{folder}", str(folder)).replace("{podman}", str(real)))
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    os.environ |= {
        "PATH": f"{wrapper.parent}{os.pathsep}{before['PATH']}",
        "CONTAINERS_CONF": str(folder / "run.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "CONTAINERS_REGISTRIES_CONF": str(folder / "registries.conf"),
        "TMPDIR": str(folder),
    }
    served = Machine(host, folder)
    try:
        with registry(folder / "registry.yml", host):
            put_base(served)
            yield served
    finally:
        served.podman("pod", "rm", "--all", "--force", check=False)
        served.podman("rm", "--all", "--force", "--volumes", check=False)
        served.podman("rmi", "--all", "--force", check=False)
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def registry(settings: Path, host: str) -> Iterator[None]:
    """A registry with its own log, ended by its process."""
    with settings.with_suffix(".log").open("wb") as log:
        command = ["docker-registry", "serve", str(settings)]
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        awaited(f"http://{host}/v2/", process)
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)


@contextmanager
def locked_registry(served: Machine) -> Iterator[str]:
    """Host:port of another registry, which lets in nobody but `bot` with the password `opensesame`."""
    host, settings = f"127.0.0.1:{free_port()}", served.folder / "locked.yml"
    users = served.folder / "users"
    users.write_text(f"bot:{OPENSESAME}\n")
    text = FILES["registry.yml"].replace("{folder}/registry", "{folder}/locked")
    text += f"auth: {{htpasswd: {{realm: tests, path: {users}}}}}\n"
    settings.write_text(text.replace("{folder}", str(served.folder)).replace("{host}", host))
    with registry(settings, host):
        yield host


def put_base(served: Machine) -> None:
    """The stand-in goes into the registry under the name that the Dockerfile asks for, which is led there."""
    name = f"{served.host}/library/python:{PYTHON[0]}.{PYTHON[1]}-slim"
    served.podman("import", "--change", f"ENV PATH={PATH}", "--change", 'CMD ["python3"]', str(base()), name)
    served.podman("push", "--tls-verify=false", name)
    served.podman("rmi", "--force", name)
