"""BentoML's local stores: a release's files as a model, and the bento that serves it."""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from bentos.runtime.scoring import manifest
from flows.environment import ROOT
from flows.errors import StoreError


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
        "envs": [{"name": "BENTOFLOW_RELEASE", "value": model}, {"name": "BENTOFLOW_USE_CASE", "value": use_case}],
    }
    with TemporaryDirectory() as folder:
        file = Path(folder) / "bentofile.yaml"
        file.write_text(yaml.safe_dump(options))
        made = bentoml.bentos.build_bentofile(str(file), version=version, build_ctx=str(ROOT))
    return str(made.tag)
