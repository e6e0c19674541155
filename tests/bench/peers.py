"""The servers that a user would otherwise choose, each started with the same pipeline on the same core."""

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.artefact import NAMES

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(
    command: list[str], log: Path, *, env: dict[str, str], url: str, body: bytes, cwd: Path = ROOT
) -> Iterator[str]:
    """A server that answers one request like those of the benchmark; RuntimeError with its log if it never does."""
    from tests.bentos.conftest import wait_for

    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=cwd, stdout=out, stderr=subprocess.STDOUT, env=os.environ | env)
    try:
        wait_for(lambda: process.poll() is not None or _answers(url, body), seconds=120, what=f"start (log {log})")
        if process.poll() is not None:
            raise RuntimeError(f"{command[:4]} ended: {log.read_text()[-800:]}")
        yield url
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()


def _answers(url: str, body: bytes) -> bool:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@contextmanager
def tutorial(home: Path, path: str, body: bytes, *, feast: bool = False) -> Iterator[str]:
    """The FastAPI handler of tutorials under uvicorn."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.bench.tutorial:app", "--port", str(port), "--no-access-log"]
    env = {"BENTOFLOW_HOME": str(home), "BENCH_FEAST": "1" if feast else "", "PYTHONPATH": str(ROOT)}
    log = home / f"tutorial-{int(feast)}-{port}.log"
    with started(command, log, env=env, url=f"http://127.0.0.1:{port}{path}", body=body) as url:
        yield url


def own_venv(folder: Path, packages: list[str]) -> Path:
    """A Python of its own with packages from PyPI, made once; CalledProcessError if they cannot be installed."""
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True)
        command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python), *packages]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
        (folder / ".ready").touch()
    return python


@contextmanager
def mlserver(home: Path, venvs: Path, body: bytes) -> Iterator[str]:
    """MLServer's sklearn runtime with adaptive batching and no worker pool beside it."""
    import sklearn

    python = own_venv(venvs / "mlserver", ["mlserver", "mlserver-sklearn", f"scikit-learn=={sklearn.__version__}"])
    folder, port = home / "mlserver", free_port()
    folder.mkdir(exist_ok=True)
    settings = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port(), "parallel_workers": 0}
    (folder / "settings.json").write_text(json.dumps({"host": "127.0.0.1", "debug": False, **settings}))
    model = {
        "name": "churn",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "max_batch_size": 32,
        "max_batch_time": 0.002,
        "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, len(NAMES)]}],
        "outputs": [{"name": "predict_proba", "datatype": "FP64", "shape": [-1, 2]}],
        "parameters": {"uri": str(home / "pipeline.joblib"), "content_type": "np"},
    }
    (folder / "model-settings.json").write_text(json.dumps(model))
    command = [str(python.with_name("mlserver")), "start", str(folder)]
    url = f"http://127.0.0.1:{port}/v2/models/churn/infer"
    env = {"PYTHONPATH": "", "PATH": f"{python.parent}:{os.environ['PATH']}", "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    with started(command, home / "mlserver.log", env=env, url=url, body=body, cwd=folder) as ready:
        yield ready


@contextmanager
def mlflow(home: Path, body: bytes) -> Iterator[str]:
    """`mlflow models serve` of the same pipeline, in this environment."""
    model, port = home / "mlflow-model", free_port()
    if not model.exists():
        code = (
            "import joblib, mlflow, sys\n"
            "mlflow.sklearn.save_model(joblib.load(sys.argv[1]), sys.argv[2], pyfunc_predict_fn='predict_proba',"
            " serialization_format='cloudpickle')"
        )
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, str(home / "pipeline.joblib"), str(model)],
            check=True,
            capture_output=True,
            text=True,
        )
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "-h", "127.0.0.1"]
    command += ["-p", str(port), "--env-manager", "local", "-w", "1"]
    url = f"http://127.0.0.1:{port}/invocations"
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "BENTOFLOW_HOME": str(home)}
    with started(command, home / "mlflow.log", env=env, url=url, body=body) as ready:
        yield ready
