"""The MLflow flavour of a version: raw features in, probability out, through the scorer that also serves.

MLflow stores this file as source ("models from code"), so loading a version unpickles nothing.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from bentos.runtime.scoring.categories import raw_values
from bentos.runtime.scoring.scorer import Scorer


class ScorerModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc,name-defined]
    """`predict` takes a frame with the features of the manifest and gives `probability` per row."""

    def load_context(self, context: Any) -> None:
        self.scorer = Scorer.load(Path(context.artifacts["release"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        found = self.scorer.manifest
        x = raw_values(model_input, found.names, found.categorical)
        return pd.DataFrame({"probability": self.scorer.score(x)})


mlflow.models.set_model(ScorerModel())
