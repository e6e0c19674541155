"""The standard of a release: what the answers of a window are compared with, as it was kept with the release."""

from dataclasses import dataclass
from pathlib import Path

from bentos.runtime.monitoring import calibration
from bentos.runtime.scoring import manifest
from flows.errors import StoreError
from flows.steps.monitoring import estimates, kinds, segments
from flows.steps.monitoring.segments import Segment
from flows.stores import bentos, profiles, promises, verdicts


@dataclass(frozen=True, kw_only=True)
class Standard:
    """What a release is compared with: reference and calibration, what its scores mean, and the quality it promised."""

    reference: str
    profile: bytes
    known: calibration.Calibration | None
    quality: estimates.Quality | None
    promise: kinds.Promise | None
    measured: kinds.Level | None

    def apart(self, window: bytes) -> tuple[Segment, ...]:
        """Scores of each segment of a window's profile beside the standard's; none where another library made that."""
        try:
            then, now = profiles.remembered(self.profile), profiles.remembered(window)
        except StoreError:
            return ()
        return segments.compare(*({name: column.kept for name, column in side.items()} for side in (then, now)))


def of(use_case: str, release: str, home: Path) -> Standard:
    """What was kept with the release; one of before calibrations were kept is calibrated at the check."""
    folder = bentos.model_folder(release)
    promise = promises.promised(release)
    known, quality = folder / calibration.FILE, folder / estimates.FILE
    month = verdicts.measured(home, use_case, release)
    return Standard(
        reference=(folder / manifest.REFERENCE).read_text(),
        profile=(folder / manifest.REFERENCE_PROFILE).read_bytes(),
        known=calibration.from_json(known.read_text()) if known.exists() else None,
        quality=estimates.from_json(quality.read_text()) if quality.exists() else None,
        promise=promise,
        measured=kinds.level("measured", month, promise),
    )
