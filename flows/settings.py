"""Typed settings from the environment; what belongs to a use case lives in its spec."""

import secrets
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from bentos.runtime.home import create
from flows.environment import ROOT
from flows.errors import StoreError

Target = Literal["local", "registry", "compose", "kubernetes", "sagemaker", "vertex"]  # where releases go
Drill = Literal["shuffled_labels"]  # faults that a training can plant


class Settings(BaseSettings):
    """Every variable is prefixed BENTOFLOW_, for example BENTOFLOW_HOME.

    A service reads variables of its own: BENTOFLOW_USE_CASE, BENTOFLOW_WORKERS (processes, 1), BENTOFLOW_ONLINE_STORE
    (redis://…, else SQLite) and BENTOFLOW_FEATURE_CACHE_S (seconds that features read from the online store are kept in
    the process, 0: off; it pays beside Redis only, see bentos/runtime/features/cache.py).
    Services and flows share BENTOFLOW_BUCKET (s3://…: journals and snapshots are kept there too),
    BENTOFLOW_JOURNAL_AGE_S and BENTOFLOW_FEATURE_REGISTRY (a path, or postgresql://…); see infra/backends/README.md.
    """

    model_config = SettingsConfigDict(env_prefix="BENTOFLOW_", frozen=True)

    home: Path = ROOT / ".bentoflow"
    host: str = "127.0.0.1"
    service_port: int = 3000
    prefect_port: int = 4200
    mlflow_port: int = 5000
    exporter_port: int = 9105
    task_runner: Literal["threads", "dask"] = "threads"
    dask_address: str | None = None  # of a running scheduler; a local cluster is started without one
    dask_workers: int = 2
    alerts: SecretStr = SecretStr("")  # where alerts go, see flows/alerts/channels.py: slack-webhook/oncall mailtos://…
    alert_reminder_hours: float = 24.0  # between reminders of what lasts; 0: none
    target: Target = "local"  # of releases that name none, automatic ones among them
    registry: str = ""  # where images go, such as ghcr.io/acme: each use case is a repository below it
    registry_plain_http: bool = False  # on the loopback interface only
    registry_user: str = ""  # with the password, instead of what `docker login` or `podman login` has kept
    registry_password: SecretStr = SecretStr("")
    image_backend: Literal["auto", "docker", "podman", "buildah"] = "auto"
    cosign_key: str = ""  # signs each pushed image; its password is COSIGN_PASSWORD, as cosign itself has it
    cosign_public_key: str = ""  # each image is verified with it before it is released or gone back to
    compose: Path = ROOT / "infra" / "compose"  # folder of the compose.yaml and .env of the target compose
    kubernetes_overlay: str = ""  # folder of the kustomization that a cluster is given, with the target kubernetes
    sagemaker_role: str = ""  # ARN of the role that endpoints run with, for the target sagemaker
    sagemaker_instance: str = "ml.m5.large"
    vertex_project: str = ""  # for the target vertex
    vertex_region: str = ""
    vertex_machine: str = "n1-standard-2"
    vertex_token: SecretStr = SecretStr("")  # OAuth access token; without it `gcloud` is asked for one
    hosted_instances: int = 2  # machines of an endpoint of SageMaker or Vertex
    hosted_online_store: SecretStr = SecretStr("")  # redis://… for them; who may describe their models can read it
    mask_key: str | None = None  # keys the masking of personal data; generated once if unset

    @field_validator("home", mode="before")
    @classmethod
    def _absolute(cls, home: str | Path) -> Path:
        return Path(str(home).strip() or ROOT / ".bentoflow").expanduser().resolve()

    def key(self) -> bytes:
        """The masking key: from the environment, else kept in a private file so that masks stay stable."""
        if self.mask_key:
            return self.mask_key.encode()
        path = self.home / "mask.key"
        if not path.exists():
            with suppress(FileExistsError):  # another first command's is as good
                create(path, secrets.token_hex(32).encode())
        key = path.read_bytes()
        if not key.strip():
            raise StoreError(f"{path} is empty, which masks nothing: restore it, or remove it to mask anew from now on")
        return key


def settings() -> Settings:
    """The settings as the environment stands now."""
    return Settings()
