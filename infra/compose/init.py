"""Make what a composed stack needs and no repository may hold: secrets, images by digest, folders, a certificate.

`python3 init.py [FOLDER]` writes .env beside it. What is there already stays: say it again after a change.
"""

import argparse
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
UID = 10001
NOBODY = "registry.invalid/release@sha256:" + "0" * 64  # can be pulled from nowhere, until there is a release
SECRETS = (
    "GRAFANA_PASSWORD",
    "MLFLOW_DATABASE_PASSWORD",
    "POSTGRES_PASSWORD",
    "PREFECT_DATABASE_PASSWORD",
    "PREFECT_PASSWORD",
    "VALKEY_PASSWORD",
)
IMAGES = {  # tags that are looked up once and then kept as digests
    "ALERTMANAGER_IMAGE": "docker.io/prom/alertmanager:v0.28.1",
    "GRAFANA_IMAGE": "docker.io/grafana/grafana:12.1.0",
    "NGINX_IMAGE": "docker.io/library/nginx:1.28-alpine",
    "POSTGRES_IMAGE": "docker.io/library/postgres:17-bookworm",
    "PROMETHEUS_IMAGE": "docker.io/prom/prometheus:v3.5.0",
    "VALKEY_IMAGE": "docker.io/valkey/valkey:8.1-alpine",
}
FOLDERS = (
    *("home/journal", "home/feast", "prefect", "mlflow", "postgres", "valkey", "prometheus", "alertmanager", "grafana"),
    *("gateway/share", "gateway/tls", "targets", "secrets"),
)
FILES = {  # of the data folder; a release rewrites the service's targets
    "targets/service.json": "[]",
    "targets/loop.json": '[{"targets": ["exporter:9105"]}]',
    "targets/alertmanager.json": '[{"targets": ["alertmanager:9093"]}]',
}


def engine() -> str | None:
    """Docker if its daemon answers, else Podman; None if neither is there."""
    found = (name for name in ("docker", "podman") if shutil.which(name))
    return next((n for n in found if not subprocess.run([n, "version"], capture_output=True).returncode), None)


def digest(tag: str, runner: str) -> str | None:
    """`repository@sha256:…` of a tag as the registry has it now, None if it cannot be pulled."""
    if subprocess.run([runner, "pull", "--quiet", tag], stdout=subprocess.DEVNULL).returncode:
        return None
    asked = [runner, "image", "inspect", "--format", "{{index .RepoDigests 0}}", tag]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def certificate(folder: Path) -> None:
    """A key, and a certificate for localhost that it signs itself."""
    made = ["openssl", "req", "-x509", "-newkey", "rsa:3072", "-noenc", "-days", "365", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")]
    subprocess.run([*made, *names, *files], check=True, capture_output=True)


def private(path: Path, text: str) -> None:
    """Write a file that only its owner reads."""
    path.touch(mode=0o600)
    path.write_text(text)


def main() -> None:
    """Write what is missing, and say what it was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", default="/srv/bentoflow", type=Path, help="where data lie (%(default)s)")
    parser.add_argument("--use-case", default="churn", help="which service (%(default)s)")
    parser.add_argument("--flows-image", help="your image of infra/images/flows.Containerfile, by digest")
    given = parser.parse_args()
    if os.geteuid() not in (0, UID):
        sys.exit(f"run this as root or as the user {UID}, to whom the containers' data belong")
    file, data = HERE / ".env", given.data.resolve()
    lines = file.read_text().splitlines() if file.exists() else []
    known = {line.partition("=")[0] for line in lines}
    wanted = {"BENTOFLOW_DATA": str(data), "USE_CASE": given.use_case}
    wanted |= {"COMPOSE_PROFILES": "", "SERVICE_IMAGE": NOBODY, "CANDIDATE_IMAGE": NOBODY}
    wanted |= {name: secrets.token_hex(24) for name in SECRETS}
    if given.flows_image:
        wanted["FLOWS_IMAGE"] = given.flows_image
    runner = engine()
    for name, tag in IMAGES.items():
        if name not in known and runner and (found := digest(tag, runner)):
            wanted[name] = found
    added = {name: value for name, value in wanted.items() if name not in known}
    private(file, "\n".join([*lines, *(f"{name}={value}" for name, value in added.items())]) + "\n")
    for name in FOLDERS:
        (data / name).mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        if not (data / name).exists():
            (data / name).write_text(text)
    if not (data / "gateway" / "keys.conf").exists():
        private(data / "gateway" / "keys.conf", f'"Bearer {secrets.token_hex(32)}" first;\n')
    if not (data / "gateway" / "tls" / "tls.crt").exists():
        certificate(data / "gateway" / "tls")
        print(f"{data}/gateway/tls has a certificate for localhost: put your own there, tls.crt and tls.key")
    (data / "secrets").chmod(0o700)
    if os.geteuid() == 0:
        for path in (file, data, *data.rglob("*")):
            os.chown(path, UID, UID)
    print(f"{file}: {len(added)} new, {len(known & wanted.keys())} kept; a client's key is in {data}/gateway/keys.conf")
    if missing := sorted({*IMAGES, "FLOWS_IMAGE"} - known - added.keys()):
        print(f"still to be written there, as repository@sha256:…: {', '.join(missing)}")


if __name__ == "__main__":
    main()
