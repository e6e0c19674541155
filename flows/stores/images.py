"""Container images: a bento as an image, checked, pushed to a registry, known by `repository@sha256:…` from then on.

What is built is BentoML's own `containerize`, without compilers, for the numeric user 10001.
"""

import json
import re
import sys
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from flows.errors import ImageError
from flows.settings import Settings
from flows.stores.engines import Engine, Say, ask, call, persistently

UID = 10001
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
NAME = re.compile(r"[a-z0-9][a-z0-9.-]*(:\d+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*")  # host[:port]/path
CREDENTIALS = re.compile(rb"[a-z][a-z0-9+.-]*://[^\s/:@'\"<>{}$]+:([^\s/:@'\"<>{}$]+)@[a-z0-9\[]", re.IGNORECASE)
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
BUILD = (  # a process of its own: BentoML logs a builder's failure and returns None
    "import json, sys, bentoml; "
    "sys.exit(bentoml.container.build(image_tag=(sys.argv[1],), **json.loads(sys.argv[2])) is None)"
)


@dataclass(frozen=True)
class ImageRef:
    """An image in a registry that can never become another one."""

    repository: str
    digest: str

    def __str__(self) -> str:
        return f"{self.repository}@{self.digest}"


def parsed(text: str) -> ImageRef:
    """`repository@sha256:…` as a reference; ImageError for anything else, a tag above all."""
    repository, _, digest = text.partition("@")
    if not NAME.fullmatch(repository) or not DIGEST.fullmatch(digest):
        raise ImageError(f"{text!r} is no repository@sha256:…, and a tag may become another image at any time")
    return ImageRef(repository, digest)


def repository(chosen: Settings, use_case: str) -> str:
    """The repository of a use case's images; ImageError unless the settings name a registry that may be used."""
    named = chosen.registry.strip().rstrip("/")
    if not named:
        raise ImageError("BENTOFLOW_REGISTRY is not set: name where images go, such as ghcr.io/acme")
    if not NAME.fullmatch(named):
        shown = re.sub(r".*@", "…@", named)
        raise ImageError(f"BENTOFLOW_REGISTRY is {shown!r}: give host[:port]/path in lower case, no scheme and no user")
    if chosen.registry_plain_http and urlsplit(f"//{named}").hostname not in LOOPBACK:
        raise ImageError(f"BENTOFLOW_REGISTRY_PLAIN_HTTP is for registries on this machine; {named} needs TLS")
    return f"{named}/{use_case.replace('_', '-')}"


def leaks(*folders: Path) -> list[str]:
    """Files below the folders that hold a URL with a password, relative to their folder, sorted."""
    found = []
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            if CREDENTIALS.search(path.read_bytes()):
                found.append(str(path.relative_to(folder)))
    return found


def containerize(tag: str, name: str, *, engine: Engine, labels: Mapping[str, str], say: Say) -> None:
    """Build the image of a bento under a local name; nothing to do where it is there with the same labels.

    Raises ImageError with the builder's last lines, or with the files that hold a password.
    """
    import bentoml
    from bentoml.exceptions import NotFound

    try:
        bento = bentoml.bentos.get(tag)
        folders = [Path(bento.path), *(Path(bentoml.models.get(m.tag).path) for m in bento.info.all_models)]
    except NotFound as error:
        raise ImageError(f"no bento {tag} with its models in BentoML's store: run `bentoflow release`") from error
    if found := leaks(*folders):
        raise ImageError(f"the bento {tag} holds a URL with a password in {', '.join(found)}: take it out, build again")
    if labels.items() <= labels_of(engine, name).items():
        say(f"{name} is built already")
        return
    options = {
        "bento_tag": tag,
        "backend": engine.builder,
        "label": [f"{key}={value}" for key, value in labels.items()],
        "build_arg": [f"BENTO_USER_UID={UID}", f"BENTO_USER_GID={UID}"],
    }
    call(
        [sys.executable, "-c", BUILD, name, json.dumps(options)],
        env={"BUILDAH_LAYERS": "true"},  # so that the next release's image shares all but the last layers
        say=say,
        what=f"building the image of {tag} with {engine.builder}",
    )


def labels_of(engine: Engine, name: str) -> dict[str, str]:
    """The labels of a local image; none if there is no such image."""
    found = ask([engine.runner, "image", "inspect", name])
    return dict(json.loads(found)[0]["Config"].get("Labels") or {}) if found else {}


@contextmanager
def access(chosen: Settings) -> Iterator[tuple[dict[str, str], list[str]]]:
    """Environment and podman's options with which the registry is spoken to.

    A user and password of the settings are in a private file while it lasts; without them the tool's own login counts.
    """
    plain = ["--tls-verify=false"] if chosen.registry_plain_http else []
    if not chosen.registry_user:
        yield {}, plain
        return
    host = chosen.registry.partition("/")[0]
    pair = f"{chosen.registry_user}:{chosen.registry_password.get_secret_value()}"
    with TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps({"auths": {host: {"auth": b64encode(pair.encode()).decode()}}}))
        yield {"REGISTRY_AUTH_FILE": str(file), "DOCKER_CONFIG": folder}, plain


def push(chosen: Settings, engine: Engine, name: str, *, say: Say) -> ImageRef:
    """Push a local image, again after a fault of the network; layers that are there are not sent twice."""
    at = name.rpartition(":")[0]
    with access(chosen) as (env, plain), TemporaryDirectory() as folder:
        file = Path(folder) / "digest"
        podman = [*plain, "--digestfile", str(file)] if engine.runner == "podman" else []
        command = [engine.runner, "push", *podman, name]
        said = persistently(lambda: call(command, env=env, say=say, what=f"pushing {name}"), say)
        found = DIGEST.findall(file.read_text() if podman else said)
    if not found:
        raise ImageError(f"{engine.runner} pushed {name}, but named no digest; its output was: {said[-300:]}")
    return ImageRef(at, found[-1])


def pull(chosen: Settings, engine: Engine, image: ImageRef, *, say: Say) -> None:
    """Fetch an image by its digest, which the engine checks; quick where its layers are there."""
    with access(chosen) as (env, plain):
        podman = plain if engine.runner == "podman" else []
        command = [engine.runner, "pull", *podman, str(image)]
        persistently(lambda: call(command, env=env, say=say, what=f"pulling {image}"), say)


def sign(chosen: Settings, image: ImageRef, *, say: Say) -> bool:
    """Sign an image where BENTOFLOW_COSIGN_KEY is set; False where it is not."""
    if not chosen.cosign_key:
        return False
    with access(chosen) as (env, _):
        options = ["--yes", "--tlog-upload=false", "--key", chosen.cosign_key, *_insecure(chosen)]
        command = ["cosign", "sign", *options, str(image)]
        persistently(lambda: call(command, env=env, what=f"signing {image}"), say)
    return True


def check_signature(chosen: Settings, image: ImageRef, *, say: Say) -> bool:
    """Verify the signature where BENTOFLOW_COSIGN_PUBLIC_KEY is set, ImageError if there is none; False if not set."""
    if not chosen.cosign_public_key:
        return False
    with access(chosen) as (env, _):
        options = ["--insecure-ignore-tlog=true", "--key", chosen.cosign_public_key, *_insecure(chosen)]
        command = ["cosign", "verify", *options, str(image)]
        persistently(lambda: call(command, env=env, what=f"verifying the signature of {image}"), say)
    return True


def _insecure(chosen: Settings) -> list[str]:
    return ["--allow-http-registry"] if chosen.registry_plain_http else []
