"""The registry target: what an image says of itself."""

import json
import subprocess
from pathlib import Path

import pytest

from flows.errors import ImageError
from flows.stores import images
from flows.targets import registry as remote

IMAGE = images.ImageRef("ghcr.io/acme/churn", "sha256:" + "ab" * 32)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://bot:hunter2@git.example/acme/loop.git?token=x", "https://git.example/acme/loop.git"),
        ("ssh://git@git.example:2222/acme/loop.git", "ssh://git.example:2222/acme/loop.git"),
        ("/home/me/loop", None),
        ("git@git.example:acme/loop.git", None),
    ],
)
def test_the_source_is_an_address_without_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, shown: str | None
) -> None:
    """User, password and token are left out, and a path of a machine altogether."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run(["git", "-C", str(tmp_path), "remote", "add", "origin", address], check=True)
    monkeypatch.setattr(remote, "ROOT", tmp_path)
    assert remote.origin() == shown


def test_without_a_checkout_there_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package has no origin."""
    monkeypatch.setattr(remote, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert remote.origin() is None


def test_the_bill_of_materials_names_every_package_once() -> None:
    """CycloneDX 1.5 with package URLs, escaped where a version needs it; an empty list is an error."""
    listed = {
        "pypi": [{"name": "SQLAlchemy", "version": "2.0.58"}, {"name": "pydantic_core", "version": "2.50.4"}],
        "deb": [{"name": "libstdc++6", "version": "12.2.0-14+deb12u1"}],
    }
    bill = json.loads(json.dumps(remote.bill(IMAGE, listed)))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert bill["metadata"]["component"]["bom-ref"] == str(IMAGE)
    assert [part["purl"] for part in bill["components"]] == [
        "pkg:pypi/sqlalchemy@2.0.58",
        "pkg:pypi/pydantic-core@2.50.4",
        "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1",
    ]
    with pytest.raises(ImageError, match="lists no package"):
        remote.bill(IMAGE, {"pypi": [], "deb": []})
