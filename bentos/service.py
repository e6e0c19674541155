"""The service that `bentofile.yaml` names: the one of the use case in `BENTOFLOW_USE_CASE`, churn by default."""

import importlib
import os
from typing import Any


def pick(use_case: str) -> Any:
    """The BentoML service of a use case: the class in bentos/<use case>.py named like it."""
    try:
        module = importlib.import_module(f"bentos.{use_case}")
    except ModuleNotFoundError as error:
        if error.name != f"bentos.{use_case}":
            raise
        raise LookupError(
            f"BENTOFLOW_USE_CASE is {use_case!r}, but there is no bentos/{use_case}.py; "
            "write it, or name a use case that has one"
        ) from error
    return getattr(module, use_case.title().replace("_", ""))


Service = pick(os.environ.get("BENTOFLOW_USE_CASE", "").strip() or "churn")
