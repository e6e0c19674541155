"""MLflow: runs, versions with their verdict, and the aliases champion, challenger and previous."""

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from mlflow.tracking import MlflowClient

from flows.environment import ROOT
from flows.errors import StoreError
from flows.stores import database

ALIASES = ("champion", "challenger", "previous")
REQUIREMENTS = ("numpy", "onnxruntime", "pandas", "orjson")


@dataclass(frozen=True, kw_only=True)
class Version:
    """A registered version: its number, run, and the tags that the flows wrote on it."""

    number: str
    run_id: str
    tags: dict[str, str]
    aliases: tuple[str, ...]

    @property
    def verdict(self) -> str | None:
        """PROMOTE, HOLD, REJECT, or None where no gate has judged it."""
        return self.tags.get("verdict")


def client() -> MlflowClient:
    """A client of the tracking server that the environment names; a database of ours is made if it is not there."""
    database.ready(os.environ.get("MLFLOW_TRACKING_URI", ""), _database)
    return MlflowClient()


def _database(address: str) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    root = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT") or "mlruns"
    SqlAlchemyStore(address, root).engine.dispose()  # type: ignore[no-untyped-call]


def connect(use_case: str, home: Path) -> str:
    """The use case's experiment, made at the first call.

    Its artefacts lie where MLFLOW_DEFAULT_ARTIFACT_ROOT says, below `home` if it says nothing, or with a server that
    keeps them.
    """
    found = client().get_experiment_by_name(use_case)
    if found is not None:
        return str(found.experiment_id)
    if os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http"):
        return str(mlflow.create_experiment(use_case))
    root = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT") or str(home / "mlflow" / "artifacts")
    place = root if "://" in root else Path(root).as_uri()
    return str(mlflow.create_experiment(use_case, artifact_location=f"{place}/{use_case}"))


@contextmanager
def run(experiment: str, name: str, *, tags: Mapping[str, str] | None = None, nested: bool = False) -> Iterator[str]:
    """An MLflow run; ends FAILED when the block raises. Gives the run's id."""
    with mlflow.start_run(experiment_id=experiment, run_name=name, tags=dict(tags or {}), nested=nested) as active:
        yield active.info.run_id


def log(
    *,
    params: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    texts: Mapping[str, str] | None = None,
    images: Mapping[str, bytes] | None = None,
    folder: Path | None = None,
) -> None:
    """Parameters, metrics, text files, pictures (PNG) and a folder (as `release`) on the active run."""
    if params:
        mlflow.log_params(dict(params))
    if metrics:
        mlflow.log_metrics({k: float(v) for k, v in metrics.items()})
    for name, text in (texts or {}).items():
        mlflow.log_text(text, name)
    for name, png in (images or {}).items():
        with mlflow_file(name) as path:
            path.write_bytes(png)
            mlflow.log_artifact(str(path), "plots")
    if folder is not None:
        mlflow.log_artifacts(str(folder), "release")


@contextmanager
def mlflow_file(name: str) -> Iterator[Path]:
    """A temporary file of that name."""
    with TemporaryDirectory() as folder:
        yield Path(folder) / name


def log_dataset(frame: pd.DataFrame, *, name: str, source: str, label: str, context: str) -> None:
    """Lineage: the frame's schema and digest, where it came from, and what it was used for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The specified dataset source can be interpreted")
        typed = frame.astype({label: "float64"})
        data = mlflow.data.from_pandas(typed, source=source, name=name, targets=label)  # type: ignore[attr-defined]
        # MLflow looks for nulls value by value, seconds on every training; some rows, with nulls first, tell the same
        some = typed.loc[typed.isna().any(axis=1).sort_values(ascending=False, kind="stable").index[:100]]
        data.schema = mlflow.data.from_pandas(some, source=source, targets=label).schema  # type: ignore[attr-defined]
    mlflow.log_input(data, context=context)


def log_model(folder: Path, example: pd.DataFrame, scores: pd.DataFrame) -> str:
    """The release folder as an MLflow model with signature and input example; its `models:/` URI."""
    from importlib.metadata import version

    info = mlflow.pyfunc.log_model(
        name="model",
        python_model=str(Path(__file__).with_name("pyfunc.py")),
        artifacts={"release": str(folder)},
        code_paths=[str(ROOT / "bentos")],
        signature=infer_signature(example, scores),
        input_example=example,
        pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
    )
    return str(info.model_uri)


def register(model_uri: str, use_case: str, run_id: str, tags: Mapping[str, str]) -> Version:
    """A new version with its tags; the verdict is among them from the first moment."""
    c = client()
    try:
        c.create_registered_model(use_case)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    model = model_uri.removeprefix("models:/")  # which a server asks for, besides its address
    made = c.create_model_version(use_case, source=model_uri, run_id=run_id, tags=dict(tags), model_id=model)
    return get(use_case, str(made.version))


def _as_version(made: ModelVersion) -> Version:
    return Version(
        number=str(made.version), run_id=str(made.run_id), tags=dict(made.tags), aliases=tuple(made.aliases or ())
    )


def get(use_case: str, number: str) -> Version:
    """One version with its aliases; StoreError if the registry has none of that number."""
    try:
        return _as_version(client().get_model_version(use_case, number))
    except MlflowException as error:
        raise StoreError(
            f"no version {number!r} of {use_case} in the registry: run `bentoflow train`, or see `bentoflow status`"
        ) from error


def versions(use_case: str) -> list[Version]:
    """All versions, newest first."""
    found = client().search_model_versions(f"name = '{use_case}'")
    return [get(use_case, str(v.version)) for v in sorted(found, key=lambda v: -int(v.version))]


def by_alias(use_case: str, alias: str) -> Version | None:
    """The version that the alias points to, or None."""
    try:
        return _as_version(client().get_model_version_by_alias(use_case, alias))
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            return None
        raise


def aliases(use_case: str) -> dict[str, str]:
    """Alias to version number, of the three that bentoflow uses."""
    found = {alias: by_alias(use_case, alias) for alias in ALIASES}
    return {alias: v.number for alias, v in found.items() if v is not None}


def set_aliases(use_case: str, wanted: Mapping[str, str | None]) -> None:
    """Point each alias to its version, or remove it where None; a no-op where it already is so."""
    now = aliases(use_case)
    for alias, number in wanted.items():
        if number is None and alias in now:
            client().delete_registered_model_alias(use_case, alias)
        elif number is not None and now.get(alias) != number:
            client().set_registered_model_alias(use_case, alias, number)


def release_files(version: Version, target: Path) -> Path:
    """Download the version's release folder (manifest, model, golden rows, reference) below `target`."""
    try:
        found = mlflow.artifacts.download_artifacts(
            run_id=version.run_id, artifact_path="release", dst_path=str(target)
        )
    except (MlflowException, OSError) as error:
        raise StoreError(
            f"version {version.number} has no release folder in run {version.run_id}: {error}. Train it again"
        ) from error
    return Path(found)


def tag(use_case: str, number: str, **tags: Any) -> None:
    """Write tags on a version; values that are not text become JSON."""
    for key, value in tags.items():
        text = value if isinstance(value, str) else json.dumps(value)
        client().set_model_version_tag(use_case, number, key, text)


def keep_text(version: Version, name: str, text: str) -> None:
    """Keep a text file with the version's run."""
    client().log_text(version.run_id, text, name)


def metrics(version: Version) -> dict[str, float]:
    """The metrics of the version's run."""
    return dict(client().get_run(version.run_id).data.metrics)


def gates(version: Version) -> list[dict[str, Any]]:
    """The gate results that were stored with the version."""
    found: list[dict[str, Any]] = mlflow.artifacts.load_dict(f"runs:/{version.run_id}/gates.json")["results"]
    return found


def card(version: Version) -> str:
    """The version's model card, Markdown."""
    return str(mlflow.artifacts.load_text(f"runs:/{version.run_id}/model_card.md"))


def pictures(version: Version) -> dict[str, bytes]:
    """The plots of the version's run as PNG by file name."""
    with TemporaryDirectory() as folder:
        found = mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path="plots", dst_path=folder)
        return {path.name: path.read_bytes() for path in sorted(Path(found).glob("*.png"))}
