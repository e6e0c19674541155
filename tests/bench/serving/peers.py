"""The servers that a user would otherwise choose, each started with the same pipeline on the same core."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from tests.bench.serving.artefact import CATEGORIES, NAMES
from tests.bench.serving.bodies import Bodies
from tests.bench.serving.processes import ROOT, Running, started
from tests.servers import free_port


@contextmanager
def tutorial(
    home: Path, bodies: Bodies, *, path: str = "/predict", feast: bool = False, online_store: str = ""
) -> Iterator[Running]:
    """The FastAPI handler of tutorials under uvicorn, with Feast on the embedded or another online store."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.bench.serving.tutorial:app"]
    command += ["--port", str(port), "--no-access-log"]
    env = {"BENTOFLOW_HOME": str(home), "BENCH_FEAST": "1" if feast else "", "PYTHONPATH": str(ROOT)}
    env["BENTOFLOW_ONLINE_STORE"] = online_store
    url, log = f"http://127.0.0.1:{port}", home / f"tutorial-{port}.log"
    with started(command, log, url=url, path=path, bodies=bodies, env=os.environ | env) as running:
        yield running


def own_venv(folder: Path, packages: list[str]) -> Path:
    """A Python of its own with packages from PyPI, made once; CalledProcessError if they cannot be installed."""
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.exists() or ready.read_text() != "\n".join(packages):
        print(f"installing {', '.join(packages)} into {folder} (once)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, capture_output=True)
        command = [
            sys.executable,
            "-m",
            "uv",
            "pip",
            "install",
            "--quiet",
            "--compile-bytecode",
            "--python",
            str(python),
            *packages,
        ]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
        ready.write_text("\n".join(packages))
    return python


def _of_here(*packages: str) -> list[str]:
    """Packages in the versions that the pipeline was fitted and pickled with."""
    return [f"{package}=={version(package)}" for package in packages]


def _own_env(python: Path, more: dict[str, str]) -> dict[str, str]:
    """The environment of a server whose packages are not this project's."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return kept | {"PATH": f"{python.parent}:{os.environ['PATH']}"} | more


@contextmanager
def mlserver(home: Path, venvs: Path, bodies: Bodies) -> Iterator[Running]:
    """MLServer's sklearn runtime with adaptive batching and no worker pool beside it."""
    python = own_venv(venvs / "mlserver", ["mlserver", "mlserver-sklearn", *_of_here("scikit-learn")])
    folder, port = home / "mlserver", free_port()
    folder.mkdir(exist_ok=True)
    settings = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port(), "parallel_workers": 0}
    (folder / "settings.json").write_text(json.dumps({"host": "127.0.0.1", "debug": False, **settings}))
    tensor = {"name": "x", "datatype": "FP64", "shape": [-1, len(NAMES)]}
    columns = [{"name": n, "datatype": "BYTES" if n in CATEGORIES else "FP64", "shape": [-1]} for n in NAMES]
    model = {
        "name": "churn",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "max_batch_size": 32,
        "max_batch_time": 0.002,
        "inputs": columns if CATEGORIES else [tensor],
        "outputs": [{"name": "predict_proba", "datatype": "FP64", "shape": [-1, 2]}],
        "parameters": {"uri": str(home / "pipeline.joblib"), "content_type": "pd" if CATEGORIES else "np"},
    }
    (folder / "model-settings.json").write_text(json.dumps(model))
    command, url = [str(python.with_name("mlserver")), "start", str(folder)], f"http://127.0.0.1:{port}"
    env = _own_env(python, {"PROMETHEUS_MULTIPROC_DIR": str(folder)})
    path, log = "/v2/models/churn/infer", home / "mlserver.log"
    with started(command, log, url=url, path=path, bodies=bodies, env=env, cwd=folder) as running:
        yield running


SAVE = """import joblib, mlflow, sys
mlflow.sklearn.save_model(joblib.load(sys.argv[1]), sys.argv[2], pyfunc_predict_fn="predict_proba",
                          serialization_format="cloudpickle", pip_requirements=[])"""


@contextmanager
def mlflow(home: Path, venvs: Path, bodies: Bodies) -> Iterator[Running]:
    """`mlflow models serve` of the same pipeline with one worker."""
    python = own_venv(venvs / "mlflow", _of_here("mlflow", "scikit-learn", "numpy", "pandas"))
    model, port = home / "mlflow-model", free_port()
    env = _own_env(python, {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"})
    if not model.exists():
        command = [str(python), "-W", "ignore", "-c", SAVE, str(home / "pipeline.joblib"), str(model)]
        subprocess.run(command, check=True, capture_output=True, text=True, env=env, cwd=home)
    command = [str(python), "-m", "mlflow", "models", "serve", "-m", str(model), "-h", "127.0.0.1"]
    command += ["-p", str(port), "--env-manager", "local", "-w", "1"]
    url, log = f"http://127.0.0.1:{port}", home / "mlflow.log"
    with started(command, log, url=url, path="/invocations", bodies=bodies, env=env, cwd=home) as running:
        yield running
