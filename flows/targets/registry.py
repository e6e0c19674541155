"""The registry target: a release as an image that was tested before it was pushed, and again as it was pulled."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from bentos.runtime.scoring import manifest
from flows.environment import ROOT
from flows.errors import ImageError
from flows.settings import Settings
from flows.stores import bentos, containers, engines, images, registry
from flows.stores.engines import Engine, Say
from flows.targets import golden, local


def package(
    chosen: Settings, use_case: str, bento: str, folder: Path, *, say: Say, checkpoint: Callable[[str], None]
) -> images.ImageRef:
    """Build, test and push the image of a bento, and keep its list of packages with the version; its reference.

    Nothing here is a release yet, and every step is a no-op where it was done before: killed anywhere, do it again.
    """
    repository = images.repository(chosen, use_case)
    engine = engines.find(chosen.image_backend)
    kept = json.loads((folder / "release.json").read_text())
    version = registry.get(use_case, kept["model_version"])
    if (known := pushed(chosen, engine, repository, version.tags.get("image", ""), say=say)) is not None:
        return known
    name = f"{repository}:{bento.rpartition(':')[2]}"
    images.containerize(bento, name, engine=engine, labels=labels(kept, bento, folder), say=say)
    checkpoint("image_built")
    rows, listed = smoke(engine, name, folder, kept["release"], say=say)
    say(golden.told(rows, by=name))
    checkpoint("image_tested")
    image = images.push(chosen, engine, name, say=say)
    checkpoint("image_pushed")
    if images.sign(chosen, image, say=say):
        say(f"{image} is signed")
    registry.keep_text(version, f"image/{image.digest[7:19]}.cdx.json", json.dumps(bill(image, listed), indent=1))
    return image


def pushed(chosen: Settings, engine: Engine, repository: str, known: str, *, say: Say) -> images.ImageRef | None:
    """The image that a version was given before, if it is of this repository and the registry still has it."""
    if not known.startswith(f"{repository}@"):
        return None
    image = images.parsed(known)
    try:
        images.pull(chosen, engine, image, say=say)
    except ImageError as error:
        say(f"{image} is built anew: {error}")
        return None
    say(f"{image} is in the registry already")
    return image


def verify(chosen: Settings, image: images.ImageRef, folder: Path, release: str, *, say: Say) -> str:
    """Check signature and digest, and ask the image for its golden rows; says so, or ImageError or ReleaseError."""
    engine = engines.find(chosen.image_backend)
    signed = images.check_signature(chosen, image, say=say)
    images.pull(chosen, engine, image, say=say)
    rows, _ = smoke(engine, str(image), folder, release, say=say)
    return golden.told(rows, by=str(image), signed=signed)


def smoke(
    engine: Engine, image: str, folder: Path, release: str, *, say: Say
) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """Run an image hardened and ask it for the release's golden rows; their number, and what is installed in it."""
    with containers.running(engine, image, say=say) as container:
        containers.check_hardened(engine, container)
        rows = local.smoke(container.url, folder, release, arm="champion")
        return rows, containers.packages(engine, container)


def labels(kept: dict[str, Any], bento: str, folder: Path) -> dict[str, str]:
    """The image's labels: the standard's, with the commit of the bento's code, and where the model came from."""
    found = manifest.load(folder)
    source = origin()
    return {
        "org.opencontainers.image.title": f"bentoflow {found.use_case}",
        "org.opencontainers.image.version": kept["release"].partition(":")[2],
        "org.opencontainers.image.revision": bentos.labels(bento).get("code_commit", "unknown"),
        **({"org.opencontainers.image.source": source} if source else {}),
        "bentoflow.release": kept["release"],
        "bentoflow.model-version": kept["model_version"],
        "bentoflow.snapshot": found.snapshot,
        "bentoflow.manifest": found.digest(),
    }


def origin() -> str | None:
    """Address of the checkout's origin, without user and password; None without one."""
    asked = ["git", "-C", str(ROOT), "remote", "get-url", "origin"]
    try:
        url = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "ssh", "git"):  # a path of this machine is nobody's business
        return None
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def bill(image: images.ImageRef, listed: dict[str, list[dict[str, str]]]) -> dict[str, Any]:
    """The bill of materials of an image in CycloneDX 1.5 (https://cyclonedx.org/docs/1.5/json), Python and Debian."""
    kinds = {"pypi": "pypi", "deb": "deb/debian"}
    components = [
        {
            "type": "library",
            "bom-ref": (
                purl := f"pkg:{kinds[kind]}/{quote(p['name'].lower().replace('_', '-'))}@{quote(p['version'])}"
            ),
            "name": p["name"],
            "version": p["version"],
            "purl": purl,
        }
        for kind, found in listed.items()
        for p in found
    ]
    if not components:
        raise ImageError(f"{image} lists no package")
    subject = {"type": "container", "bom-ref": str(image), "name": image.repository, "version": image.digest}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": subject},
        "components": components,
    }
