"""Event rows in columns: rows with keys of several entities, a time, and numbers that only the caller knows."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bentos.protocols.columns import Column, Field, Layout, Refused, Rows
from bentos.runtime.scoring.manifest import Manifest
from bentos.runtime.scoring.table import gaps
from bentos.runtime.scoring.wire import FEATURES


@dataclass(frozen=True)
class EventLayout(Layout):
    """What an event's rows consist of.

    A call brings all of a row's own fields, and stored features come from the online store; or all of the model's
    features with the `keys`, and the time if it is another one than now. A number of its own may be a feature too.
    """

    keys: tuple[str, ...] = ()

    def rows(self, columns: Mapping[str, Column], *, extra: bool = False) -> Rows:
        """As a Layout's."""
        n = self._length(columns)
        self._all_known(columns, extra=extra)
        if not n:
            return []
        complete = any(name in columns for name in self.names if name not in self.fields)
        if complete:
            self._all_features(columns)
        wanted = self.keys if complete else tuple(self.fields)
        if lacking := [name for name in wanted if name not in columns]:
            needed = f"{', '.join(self.fields)}, or {', '.join(self.keys)} with all features"
            raise Refused(400, f"missing; bring {needed}", field=lacking[0])
        own = [name for name in self.fields if name in columns and not (complete and name in self.names)]
        found = [self.fields[name].check(columns[name], required=name in wanted) for name in own]
        rows = [dict(zip(own, row, strict=True)) for row in zip(*found, strict=True)]
        if complete:
            values = [gaps(c) if isinstance(c, np.ndarray) else c for c in self._values(columns)]
            for row, given in zip(rows, zip(*values, strict=True), strict=True):
                row[FEATURES] = dict(zip(self.names, given, strict=True))
        return rows


def layout(manifest: Manifest, fields: Mapping[str, Field]) -> Layout:
    """The layout of a release's rows; `fields` are those of its use case's rows."""
    names, texts = tuple(manifest.names), manifest.categorical
    if manifest.time:
        return EventLayout(manifest.entity, names, fields, texts, keys=manifest.keys)
    return Layout(manifest.entity, names, fields, texts)
