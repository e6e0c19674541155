"""Images: where they may go, what they may not hold, and how a password gets to the tool and nowhere else."""

import base64
import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from flows.errors import ImageError
from flows.settings import Settings
from flows.stores import bentos, images
from flows.stores.engines import Engine

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("registry", "expected"),
    [
        ("ghcr.io/acme", "ghcr.io/acme/card-fraud"),
        ("ghcr.io/acme/", "ghcr.io/acme/card-fraud"),
        ("registry.example:5000", "registry.example:5000/card-fraud"),
        ("localhost:5000/a/b_c", "localhost:5000/a/b_c/card-fraud"),
    ],
)
def test_each_use_case_is_a_repository_of_the_registry(registry: str, expected: str) -> None:
    """Its name as registries spell names."""
    assert images.repository(Settings(registry=registry), "card_fraud") == expected


@pytest.mark.parametrize(
    "registry", ["https://ghcr.io/acme", "me:hunter2@ghcr.io", "ghcr.io/Acme", "a b", "ghcr.io/x:1"]
)
def test_an_address_that_is_none_is_refused(registry: str) -> None:
    """A scheme, a user, capitals, a tag: the error says what is expected, and shows no password."""
    with pytest.raises(ImageError, match=r"give host\[:port\]/path") as raised:
        images.repository(Settings(registry=registry), "churn")
    assert "hunter2" not in str(raised.value)


def test_plain_http_is_for_this_machine_alone() -> None:
    """A registry elsewhere is never spoken to without TLS, whatever the settings say; no registry is an error too."""
    assert images.repository(Settings(registry="127.0.0.1:5000", registry_plain_http=True), "churn")
    for name in ("registry.example", "127.0.0.1.example:5000", "10.0.0.7:5000"):
        with pytest.raises(ImageError, match="needs TLS"):
            images.repository(Settings(registry=name, registry_plain_http=True), "churn")
    with pytest.raises(ImageError, match="BENTOFLOW_REGISTRY is not set"):
        images.repository(Settings(), "churn")


def test_only_a_digest_is_a_reference() -> None:
    """What could become another image is refused."""
    assert str(images.parsed(f"localhost:5000/churn@{DIGEST}")) == f"localhost:5000/churn@{DIGEST}"
    for text in ("ghcr.io/acme/churn:latest", f"ghcr.io/acme/churn:v1@{DIGEST}", "ghcr.io/a@sha256:12", ""):
        with pytest.raises(ImageError, match="may become another image"):
            images.parsed(text)


@pytest.mark.parametrize(
    ("content", "leaks"),
    [
        (b"--index-url https://me:hunter2@packages.example/simple\n", True),
        (b"\x00\x01postgresql+psycopg2://bf:pw@db/feast\xff", True),
        (b"UV_INDEX_URL=HTTPS://TOKEN:x-oauth@host", True),
        (b"redis://[user:password@]host[:port][/db]", False),
        (b"https://me@packages.example/simple", False),
        (b"https://packages.example:8080/simple, mail a:b@example.org", False),
        (b'f"https://{user}:{password}@{host}"', False),
    ],
)
def test_a_url_with_a_password_is_found_in_any_file(tmp_path: Path, content: bytes, leaks: bool) -> None:
    """In text and in binary files, in folders below; a placeholder or a port is none."""
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "requirements.txt").write_bytes(content)
    (tmp_path / "harmless").write_text("https://pypi.org/simple")
    assert images.leaks(tmp_path) == (["env/requirements.txt"] if leaks else [])


def test_a_bento_with_a_password_is_not_built(home: Path, tmp_path: Path) -> None:
    """The error names the file and not the password, and no builder is started."""
    import bentoml

    release = tmp_path / "release"
    release.mkdir()
    (release / "feature_registry.db").write_text("s3://key:hunter2@bucket/path")
    with bentoml.models.create("leaky:v1", module="bentoflow") as model:
        (Path(model.path) / "feature_registry.db").write_text("s3://key:hunter2@bucket/path")
    tag = bentos.build("leaky:v1", "leaky:v1", "churn", {})
    nobody = Engine(builder="nobody", runner="nobody")
    with pytest.raises(ImageError, match=r"leaky:v1 holds a URL with a password in feature_registry\.db") as raised:
        images.containerize(tag, "localhost/x:1", engine=nobody, labels={}, say=print)
    assert "hunter2" not in str(raised.value)


def test_a_bento_holds_no_index_and_nothing_of_one_release(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index in the environment does not get in; what comes before the packages is the same for all releases."""
    import bentoml

    for name in ("UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.setenv(name, "https://me:hunter2@packages.invalid/simple")
    for version in ("v1", "v2"):
        with bentoml.models.create(f"plain:{version}", module="bentoflow"):
            pass
    made = [Path(bentoml.bentos.get(bentos.build(f"plain:{v}", f"plain:{v}", "churn", {})).path) for v in ("v1", "v2")]
    assert images.leaks(*made) == []
    first, second = [(folder / "env" / "docker" / "Dockerfile").read_text() for folder in made]
    assert first == second
    assert "slim" in first
    assert "build-essential" not in first
    import os

    assert "hunter2" in os.environ["UV_INDEX_URL"], "what was set for others is set again"


def test_a_password_is_in_a_private_file_while_it_is_needed() -> None:
    """Podman and Docker both find it by their environment; afterwards it is gone."""
    chosen = Settings(registry="ghcr.io/acme", registry_user="bot", registry_password=SecretStr("hunter2"))
    assert "hunter2" not in repr(chosen)
    with images.access(chosen) as (env, options):
        file = Path(env["REGISTRY_AUTH_FILE"])
        assert file == Path(env["DOCKER_CONFIG"]) / "config.json"
        assert file.stat().st_mode & 0o077 == 0
        assert base64.b64decode(json.loads(file.read_text())["auths"]["ghcr.io"]["auth"]) == b"bot:hunter2"
        assert options == []
    assert not file.exists()
    with images.access(Settings(registry="localhost:5000", registry_plain_http=True)) as (env, options):
        assert (env, options) == ({}, ["--tls-verify=false"])
