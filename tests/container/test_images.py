"""From bento to image to registry and back: built, pushed, pulled by digest, run hardened, rolled back, for real.

The tests of this module run in order and share one home.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import mlflow
import pytest
from pydantic import SecretStr

from bentos.runtime.scoring import manifest
from flows.cli.options import show
from flows.errors import ImageError, ReleaseError
from flows.release import release
from flows.rollback import rollback
from flows.settings import Settings
from flows.stores import bentos, containers, engines, history, images, registry, transaction
from flows.stores.containers import Container
from flows.targets import local
from flows.targets import registry as remote
from tests import loop
from tests.conftest import Tell
from tests.container.conftest import ENGINE, PLANTED, Shipped, quiet
from tests.container.machine import Machine, locked_registry

pytestmark = [pytest.mark.container, pytest.mark.integration, pytest.mark.timeout(900)]

IGNORED = ("DL3046", "SC3020", "DL3042", "DL3013", "DL3066")  # of BentoML's own template, which is not ours to edit
LARGE = {  # packages over 20 MB, and what they are there for
    "pyarrow": "Arrow streams, and Feast imports it",
    "pandas": "Feast returns its online answers by it",
    "numpy": "every row",
    "onnxruntime": "the model",
    "feast": "the online store",
    "mypy": "Feast requires it, and nothing imports it",
}
SIZES = """
import json
from importlib.metadata import distributions
print(json.dumps({d.metadata["Name"]: sum(f.locate().stat().st_size for f in d.files or () if f.locate().exists())
                  for d in distributions()}))
"""


@pytest.fixture(scope="module")
def running(pulled: images.ImageRef) -> Iterator[Container]:
    """That image, run hardened."""
    with containers.running(ENGINE, str(pulled), say=quiet) as container:
        yield container


def inside(container: Container, command: str) -> str | None:
    """Standard output of a shell line in the container, None if it fails."""
    return containers.execute(ENGINE, container, "sh", "-c", command)


def test_a_release_names_its_image_by_digest_everywhere(
    shipped: Shipped, capsys: pytest.CaptureFixture[str], tell: Tell
) -> None:
    """Result, MLflow version and history have the same repository@sha256 of each release; nothing is under way."""
    for done in (shipped.first, shipped.second):
        image = images.parsed(done["image"])
        assert image.repository == f"{shipped.machine.host}/shop/churn"
        assert registry.get("churn", done["version"]).tags["image"] == done["image"]
    assert shipped.first["image"] != shipped.second["image"]
    show(shipped.second)
    tell(capsys.readouterr().out)
    lines = [line for line in history.read(shipped.home, "churn") if line["action"] == "promoted"]
    assert [line["image"] for line in lines] == [shipped.first["image"], shipped.second["image"]]
    assert registry.aliases("churn") == {"champion": "2", "previous": "1"}
    assert transaction.read(shipped.home, "churn") is None


def test_releasing_to_the_registry_again_changes_nothing(shipped: Shipped) -> None:
    """The champion's image is found by its digest: nothing is built, pushed or recorded."""
    lines = history.read(shipped.home, "churn")
    assert release("churn", "2", target="registry") == {
        "use_case": "churn",
        "action": "unchanged",
        "version": "2",
        "image": shipped.second["image"],
    }
    assert history.read(shipped.home, "churn") == lines


def test_the_second_image_shares_the_layers_of_the_first(shipped: Shipped) -> None:
    """Only the bento itself differs between two releases, so that a deployment fetches little."""
    layers = [
        json.loads(shipped.machine.podman("image", "inspect", done["image"]))[0]["RootFS"]["Layers"]
        for done in (shipped.first, shipped.second)
    ]
    same = sum(a == b for a, b in zip(*layers, strict=True))
    assert 3 <= same < len(layers[0])


def test_an_image_that_answers_otherwise_is_not_pushed(shipped: Shipped, tmp_path: Path) -> None:
    """The test comes before the push: one golden score that differs, and the registry has no such repository."""
    folder = tmp_path / "altered"
    shutil.copytree(bentos.model_folder(shipped.second["release"]), folder)
    golden = json.loads((folder / manifest.GOLDEN).read_text())
    golden["scores"][3] += 1e-6
    (folder / manifest.GOLDEN).write_text(json.dumps(golden))
    found = manifest.parse((folder / manifest.MANIFEST).read_text())
    files = {**found.files, manifest.GOLDEN: manifest.sha256(folder / manifest.GOLDEN)}
    (folder / manifest.MANIFEST).write_text(replace(found, files=files).dump())
    elsewhere = Settings(registry=f"{shipped.machine.host}/elsewhere")
    with pytest.raises(ReleaseError, match="golden row 3"):
        remote.package(elsewhere, "churn", shipped.second["bento"], folder, say=quiet, checkpoint=quiet)
    catalog = httpx.get(f"http://{shipped.machine.host}/v2/_catalog", timeout=20).json()["repositories"]
    assert sorted(catalog) == ["library/python", "shop/churn"]


def test_the_image_says_where_it_came_from(shipped: Shipped) -> None:
    """The standard's labels, the release, the model's version and the snapshot."""
    found = images.labels_of(ENGINE, shipped.second["image"])
    tags = registry.get("churn", "2").tags
    assert found["bentoflow.release"] == shipped.second["release"]
    assert found["bentoflow.model-version"] == "2"
    assert found["bentoflow.manifest"] == tags["manifest_sha256"]
    assert found["org.opencontainers.image.version"] == shipped.second["release"].partition(":")[2]
    assert found["org.opencontainers.image.revision"] == bentos.labels(shipped.second["bento"])["code_commit"]
    assert found["bentoflow.snapshot"] == tags["snapshot"]


def test_what_was_pulled_runs_with_nothing_it_could_do_without(running: Container, tell: Tell) -> None:
    """Uid 10001, no capability, none to be gained, a read-only root, seccomp; in the image's own words."""
    containers.check_hardened(ENGINE, running)
    status = inside(running, "cat /proc/1/status") or ""
    assert "Seccomp:\t2" in status
    assert inside(running, "touch /bentoflow") is None
    assert inside(running, "touch /home/bentoml/bento/src/bentos/churn.py") is None
    assert inside(running, "touch /tmp/bentoflow-may") is not None
    tell(f"ready after {running.ready_s:.1f} s")


def test_what_was_pulled_answers_the_golden_rows(shipped: Shipped, running: Container) -> None:
    """The scores are those of training, and those of another release are not taken for them."""
    folder = bentos.model_folder(shipped.second["release"])
    rows = local.smoke(running.url, folder, shipped.second["release"], arm="champion")
    assert rows >= 32
    other = bentos.model_folder(shipped.first["release"])
    with pytest.raises(ReleaseError, match=f"does not answer for {shipped.first['release']}"):
        local.smoke(running.url, other, shipped.first["release"], arm="champion", seconds=1)


def test_without_an_online_store_rows_bring_their_features(running: Container) -> None:
    """A row that names only its entity is refused with the reason; the service stays ready."""
    refused = httpx.post(f"{running.url}/predict", json={"user_id": 17}, timeout=20)
    assert refused.status_code == 503
    assert "online store" in refused.text
    assert httpx.get(f"{running.url}/readyz", timeout=20).status_code == 200


def test_no_compiler_no_cache_and_no_secret_is_in_the_image(running: Container, pulled: images.ImageRef) -> None:
    """Nothing to build with, nothing left of the build, and no trace of an index's password."""
    for tool in ("gcc", "cc", "g++", "make", "git", "ld"):
        assert inside(running, f"command -v {tool}") is None, tool
    user = ["podman", "run", "--rm", "--network=none", "--user=0", "--entrypoint=sh", str(pulled), "-c"]
    look = (
        "find / -xdev \\( -path '*/.cache/*' -o -path '/var/cache/apt/archives/*.deb' "
        "-o -path '/var/lib/apt/lists/*_Packages' \\) -print | head; "
        f"grep -rlsF {PLANTED} /app /etc /home /root /opt /srv /tmp /usr/local /var || true"
    )
    found = subprocess.run([*user, look], capture_output=True, text=True, check=True)
    assert found.stdout == ""
    configured = subprocess.run(["podman", "image", "inspect", str(pulled)], capture_output=True, text=True, check=True)
    assert PLANTED not in configured.stdout


def test_every_large_package_is_accounted_for(shipped: Shipped, running: Container, tell: Tell) -> None:
    """The image has less than 900 MB, and each package over 20 MB has a reason to be there."""
    sizes = json.loads(containers.execute(ENGINE, running, "/app/.venv/bin/python", "-c", SIZES) or "{}")
    large = {name: size for name, size in sizes.items() if size > 20e6}
    whole = json.loads(shipped.machine.podman("image", "inspect", shipped.second["image"]))[0]["Size"]
    tell(f"image of {whole / 1e6:.0f} MB: " + ", ".join(f"{n} {s / 1e6:.0f}" for n, s in sorted(large.items())))
    assert whole < 900e6
    assert large.keys() == LARGE.keys()


def test_the_bill_of_materials_is_kept_with_the_version(shipped: Shipped, tell: Tell) -> None:
    """Python and Debian packages of the image in CycloneDX, under the image's digest."""
    digest = images.parsed(shipped.second["image"]).digest
    run = registry.get("churn", "2").run_id
    found = mlflow.artifacts.load_dict(f"runs:/{run}/image/{digest[7:19]}.cdx.json")
    assert found["metadata"]["component"]["version"] == digest
    purls = {part["purl"] for part in found["components"]}
    tell("\n".join(sorted(purls)))
    pins = [line for line in (loop.ROOT / "bentofile.yaml").read_text().split() if "==" in line]
    for pin in pins:
        name, version = pin.split("==")
        assert f"pkg:pypi/{name.partition('[')[0]}@{version}" in purls
    assert any(purl.startswith("pkg:deb/debian/") for purl in purls)


@pytest.mark.parametrize("name", ["release", "flows"])
def test_the_dockerfile_passes_hadolint(shipped: Shipped, name: str, tell: Tell) -> None:
    """Nothing beyond what BentoML's template is known for, and nothing at all in our own; findings are shown."""
    theirs = Path(bentos_folder(shipped.second["bento"])) / "env" / "docker" / "Dockerfile"
    file, known = (theirs, IGNORED) if name == "release" else (loop.ROOT / "infra/images/flows.Containerfile", ())
    hadolint = shutil.which("hadolint")
    assert hadolint is not None
    done = subprocess.run([hadolint, "--no-color", str(file)], capture_output=True, text=True)
    found = [line.removeprefix(f"{file}:") for line in done.stdout.splitlines()]
    tell("\n".join([f"hadolint finds {len(found)} in the Dockerfile of the {name}", *found]))
    assert [line for line in found if line.split()[1] not in known] == []
    assert "build-essential" not in file.read_text()


def bentos_folder(tag: str) -> str:
    """Where BentoML keeps a bento."""
    import bentoml

    return str(bentoml.bentos.get(tag).path)


def test_a_signature_is_verified_where_a_key_is_set(
    shipped: Shipped, pulled: images.ImageRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unsigned, or signed with another key, an image is refused; signed it is verified."""
    if shutil.which("cosign") is None:
        told = "signatures are optional, and cosign is not here; .ci/run fetches it"
        pytest.fail(told) if os.environ.get("CI") == "true" else pytest.skip(told)
    monkeypatch.setenv("COSIGN_PASSWORD", "opensesame")
    keys = []
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
        subprocess.run(["cosign", "generate-key-pair"], cwd=tmp_path / name, check=True, capture_output=True)
        key = tmp_path / name / "cosign.key"
        keys.append(Settings(cosign_key=str(key), cosign_public_key=str(key.with_suffix(".pub"))))
    ours, theirs = keys
    with pytest.raises(ImageError, match="no signatures found"):
        images.check_signature(ours, pulled, say=quiet)
    assert images.sign(theirs, pulled, say=quiet)
    with pytest.raises(ImageError, match="no matching signatures"):
        images.check_signature(ours, pulled, say=quiet)
    assert images.sign(ours, pulled, say=quiet)
    assert images.check_signature(ours, pulled, say=quiet)


def test_rollback_goes_back_to_the_previous_digest(shipped: Shipped, pulled: images.ImageRef) -> None:
    """One command: the first release's digest is pulled, answers its own golden rows, and is champion again."""
    done = rollback("churn", reason="drill")
    assert (done["action"], done["version"], done["image"]) == ("rolled back", "1", shipped.first["image"])
    assert registry.aliases("churn")["champion"] == "1"
    line = history.read(shipped.home, "churn")[-1]
    assert (line["action"], line["image"]) == ("rolled back", shipped.first["image"])
    assert shipped.first["image"] in repo_digests(shipped.machine)


def repo_digests(machine: Machine) -> list[str]:
    """Every image that is here, by digest."""
    return machine.podman("images", "--digests", "--format", "{{.Repository}}@{{.Digest}}").split()


def test_a_digest_that_the_registry_does_not_have_is_not_released(shipped: Shipped) -> None:
    """The error names it, at once: what is not there does not come by asking again."""
    image = images.ImageRef(images.parsed(shipped.first["image"]).repository, "sha256:" + "0" * 64)
    with pytest.raises(ImageError, match="manifest unknown"):
        images.pull(Settings(), ENGINE, image, say=quiet)


def test_a_registry_with_a_password_is_given_it(served: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, or with another one, the push is refused at once; with it push and pull go through."""
    waited: list[float] = []
    monkeypatch.setattr(engines, "time", SimpleNamespace(sleep=waited.append))
    (served.folder / "small").mkdir()
    (served.folder / "small" / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    with locked_registry(served) as host:
        name = f"{host}/small:1"
        served.podman("build", "--tag", name, str(served.folder / "small"))
        chosen = Settings(registry=host, registry_plain_http=True)
        for wrong in (chosen, chosen.model_copy(update={"registry_user": "bot", "registry_password": SecretStr("x")})):
            with pytest.raises(ImageError, match=r"authentication required|unauthorized"):
                images.push(wrong, ENGINE, name, say=quiet)
        assert not waited
        right = chosen.model_copy(update={"registry_user": "bot", "registry_password": SecretStr("opensesame")})
        image = images.push(right, ENGINE, name, say=quiet)
        assert images.push(right, ENGINE, name, say=quiet) == image
        served.podman("rmi", "--force", name)
        images.pull(right, ENGINE, image, say=quiet)


def test_a_release_killed_after_its_push_is_not_built_again(shipped: Shipped) -> None:
    """Nothing was under way and the first stayed champion; the second start found the image built, and went on."""
    assert shipped.killed == {"code": 137, "pending": None, "champion": "1", "image": None}
    assert shipped.built_once
