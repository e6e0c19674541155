"""BentoML's local stores: a release's files as a model, and the bento that serves it."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from bentos.runtime.features import store
from bentos.runtime.scoring import manifest
from flows.environment import ROOT
from flows.errors import StoreError
from flows.stores import features

# What a container finds in its environment unless a deployment says otherwise: all that is written goes below /tmp, so
# that the root can be read-only. Nothing here is of one release, so that all images of a use case share their layers.
CONTAINER = {
    "BENTOFLOW_HOME": "/tmp/bentoflow",
    "BENTOFLOW_ONLINE_STORE": store.NONE,
    "BENTOML_DO_NOT_TRACK": "True",
    "UV_NO_CACHE": "1",
    "PIP_NO_CACHE_DIR": "1",
}
INDEX = re.compile(r"(UV|PIP)_(DEFAULT_INDEX|INDEX|INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|INDEX_.+_(USERNAME|PASSWORD))$")


def has_model(tag: str) -> bool:
    """Whether the model store holds the tag whole: a copy that was interrupted does not count."""
    import bentoml
    from bentoml.exceptions import BentoMLException

    try:
        found = manifest.load(Path(bentoml.models.get(tag).path))
    except (BentoMLException, manifest.ManifestError):
        return False
    return tag.endswith(found.digest()[:8])


def model_folder(tag: str) -> Path:
    """Folder of a stored model; StoreError if there is none of that tag."""
    import bentoml
    from bentoml.exceptions import NotFound

    try:
        return Path(bentoml.models.get(tag).path)
    except NotFound as error:
        raise StoreError(f"no model {tag} in BentoML's store: run `bentoflow release`") from error


def keep_model(tag: str, folder: Path, labels: Mapping[str, str]) -> None:
    """Copy a release folder into the model store; a no-op where the tag is there, since the tag holds the hash."""
    import bentoml
    from bentoml.exceptions import BentoMLException

    if has_model(tag):
        return
    with suppress(BentoMLException):
        bentoml.models.delete(tag)  # what an interrupted copy left
    with bentoml.models.create(tag, module="bentoflow", labels=dict(labels)) as model:
        shutil.copytree(folder, model.path, dirs_exist_ok=True)


def build(tag: str, model: str, use_case: str, labels: Mapping[str, str]) -> str:
    """The bento of a release, with its model inside and the release as its default; a no-op where it is there."""
    import bentoml
    import yaml
    from bentoml.exceptions import NotFound

    try:
        return str(bentoml.bentos.get(tag).tag)
    except NotFound:
        pass
    options = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
    name, version = tag.split(":")
    options |= {
        "name": name,
        "service": f"bentos.{use_case}:{use_case.title().replace('_', '')}",
        "models": [model],
        "labels": {**options.get("labels", {}), **labels},
        "envs": [{"name": key, "value": value} for key, value in {**CONTAINER, "BENTOFLOW_USE_CASE": use_case}.items()],
    }
    with TemporaryDirectory() as folder, without_indexes():
        file = Path(folder) / "bentofile.yaml"
        file.write_text(yaml.safe_dump(options))
        made = bentoml.bentos.build_bentofile(str(file), version=version, build_ctx=str(ROOT))
    return str(made.tag)


def labels(tag: str) -> dict[str, str]:
    """The labels that a stored bento was built with; StoreError if there is none of that tag."""
    import bentoml
    from bentoml.exceptions import NotFound

    try:
        return dict(bentoml.bentos.get(tag).info.labels)
    except NotFound as error:
        raise StoreError(f"no bento {tag} in BentoML's store: run `bentoflow release`") from error


@contextmanager
def without_indexes() -> Iterator[None]:
    """No package index in the environment: BentoML would write it into the bento, with its password."""
    kept = {key: value for key, value in os.environ.items() if INDEX.match(key)}
    for key in kept:
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update(kept)


def carry_registry(home: Path, folder: Path) -> None:
    """Put Feast's registry beside a release's files: an image has no other way to know its feature service.

    One in a database is written down as the file that it would be; where neither is there, feature_store.yaml leads
    the image to it.
    """
    registry = store.settings(home, ROOT)["registry"]
    if registry.get("registry_type") == "sql":
        (folder / store.CARRIED).write_bytes(features.registry_file(features.open_store(home)))
    elif (source := Path(registry["path"])).is_file():
        shutil.copyfile(source, folder / store.CARRIED)
