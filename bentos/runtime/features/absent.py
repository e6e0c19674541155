"""The absent online store: what a service reads from where `BENTOFLOW_ONLINE_STORE` is `none`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from bentos.runtime.features.rows import FeatureRows
from bentos.runtime.features.store import OnlineError


class AbsentReader:
    """Stands in for an entity's reader: rows that bring their features need none, all others are refused."""

    local = True
    texts: Sequence[str] = ()

    def __init__(self, entity: str, names: Sequence[str]) -> None:
        self.entity, self.names = entity, tuple(names)

    def read(self, ids: Sequence[Any], now: datetime | npt.NDArray[np.float64]) -> FeatureRows:
        """Always OnlineError."""
        raise OnlineError("there is no online store (BENTOFLOW_ONLINE_STORE is none): bring the features, or name one")
