"""The rules of drift: what a use case declares, and what a release keeps of it beside its reference."""

import json
from dataclasses import asdict, dataclass

FILE = "rules.json"  # in a release's folder


@dataclass(frozen=True, kw_only=True)
class DriftRules:
    """When a window of answers counts as drifted against the release's reference.

    A column drifts when an effect is above its limit and beyond chance; `false_alarms` is the share of windows without
    any drift that may have such a column. The verdict is drift when the window and at least `persist` of the newest
    `persist_of` windows, itself included, drifted.
    """

    min_rows: int = 500
    max_psi: float = 0.15  # beyond chance; 0.1 to 0.25 is "some shift" in credit scoring (Siddiqi 2006)
    max_ks: float = 0.15
    max_shift: float = 0.4  # Wasserstein distance in standard deviations of the reference
    max_missing_change: float = 0.05
    max_unseen_share: float = 0.02
    max_duplicates: float = 0.1  # of a window's rows
    max_quality_loss: float = 0.05  # of the promised ROC AUC, relative: beyond it a drift is harmful
    min_drifted_columns: int = 1
    false_alarms: float = 0.005
    persist: int = 1
    persist_of: int = 1
    refresh_windows: int = 0  # so many windows of benign drift in a row ask for a training too; 0: none ever does
    cooldown_days: int = 7  # between trainings that drift starts; the label's horizon is a good choice
    bins: int = 10


def to_json(rules: DriftRules) -> str:
    """Canonical JSON: sorted keys."""
    return json.dumps(asdict(rules), sort_keys=True)


def from_json(text: str) -> DriftRules:
    """The rules that `to_json` wrote; ValueError if they are none."""
    try:
        return DriftRules(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise ValueError(f"not rules of drift: {error!r}") from error
