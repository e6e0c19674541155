"""Outcomes: profiles of the answers whose label has come, one per release, arm and month, with the label as a column.

A name says which labels a profile was made of: it is written once, and takes the place of that of fewer labels.
"""

import hashlib
from pathlib import Path

import pandas as pd

from bentos.runtime.home import replace
from flows.stores import profiles

COLUMNS = ["score", "threshold", "state", "label"]


def profile(answered: pd.DataFrame, folder: Path) -> list[str]:
    """The names of the profiles of labelled answers [request_id, time, release, arm and `COLUMNS`]."""
    months = answered["time"].dt.strftime("%Y%m")
    names = []
    for (month, release, arm), rows in answered.groupby([months, "release", "arm"]):
        rows = rows.sort_values("request_id")
        which = f"{month}-{str(release).replace(':', '-')}-{arm}-"
        marks = "".join(rows["request_id"].astype(str) + "=" + rows["label"].astype(str) + "\n")
        names.append(which + hashlib.sha256((profiles.maker.NAME + marks).encode()).hexdigest()[:16])
        if not (folder / f"{names[-1]}.bin").exists():
            replace(folder / f"{names[-1]}.bin", profiles.profile(rows[COLUMNS]))
        for older in folder.glob(f"{which}*.bin"):
            if older.stem != names[-1]:
                older.unlink()
    return names
