"""Environment defaults of every tool, so that its own commands work in this repository without configuration.

The set-up writes one line into the virtual environment that calls `apply` when an interpreter starts; what the user
has set wins. Standard library only.
"""

import os
from contextlib import suppress
from pathlib import Path

APPLIED = "BENTOFLOW_APPLIED_HOME"  # the home that the variables were last derived from
ROOT = Path(__file__).resolve().parents[1]


def defaults(home: Path) -> dict[str, str]:
    """Variables that keep every tool's state below `home` and its telemetry off."""
    database = f"sqlite:///{home}/mlflow/mlflow.db"
    return {
        "BENTOFLOW_ROOT": str(ROOT),
        "BENTOFLOW_HOME": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "BENTOML_HOME": str(home / "bentoml"),
        "MLFLOW_TRACKING_URI": database,
        "MLFLOW_BACKEND_STORE_URI": database,
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(home / "mlflow" / "artifacts"),
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",  # half a minute; its own seven are five, without a word
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # processes of the UI for features that nothing here uses
        "GIT_PYTHON_REFRESH": "quiet",
        "DO_NOT_TRACK": "true",
        "BENTOML_DO_NOT_TRACK": "True",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "WHYLOGS_NO_ANALYTICS": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",  # what its server says while its database restarts
        # in memory, as is usual, a server that ends while a run holds its deployment's only place never gives it back
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }


def unset_defaults(home: Path) -> dict[str, str]:
    """The defaults of a home but for those that the user has set to something else, such as a PostgreSQL address."""
    before = os.environ.get(APPLIED)
    stale = defaults(Path(before)) if before else {}
    unset = {name for name in defaults(home) if os.environ.get(name, stale.get(name)) == stale.get(name)}
    return {name: value for name, value in defaults(home).items() if name in unset | {"BENTOFLOW_HOME"}}


def apply(home: Path | None = None) -> None:
    """Set what is unset in this process; a `home` given here, or a BENTOFLOW_HOME set anew, moves every tool there."""
    wanted = Path(home or os.environ.get("BENTOFLOW_HOME") or ROOT / ".bentoflow").expanduser().resolve()
    os.environ.update(defaults(wanted) if home is not None else unset_defaults(wanted))
    os.environ[APPLIED] = str(wanted)
    with suppress(OSError):  # of a home that cannot be written: whatever needs it says so
        for folder in ("mlflow", "prefect", "bentoml"):
            (wanted / folder).mkdir(parents=True, exist_ok=True)
