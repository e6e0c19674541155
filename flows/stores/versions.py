"""A judged training becomes a registered version; the champion becomes a rival to compare with."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from bentos.runtime.scoring.categories import raw_values
from bentos.runtime.scoring.scorer import Scorer
from flows.errors import StoreError
from flows.steps.gating import gates
from flows.steps.monitoring import segments
from flows.steps.monitoring.triggers import Cause
from flows.steps.training import dossier
from flows.steps.training.candidate import Rival
from flows.steps.training.dossier import Outcome
from flows.steps.training.search import Trial
from flows.stores import features, profiles, registry, transaction
from flows.usecases.spec import UseCase

PARAMETERS = ("snapshot", "as_of", "commit", "lock", "reason", "frame")


def record(outcome: Outcome, run_id: str) -> registry.Version:
    """Everything on the active MLflow run, then the version with its verdict among the tags from the first moment."""
    case, built, found, facts = outcome.case, outcome.built, outcome.found, outcome.facts
    with TemporaryDirectory() as folder:
        release = Path(folder) / "release"
        profile = profiles.profile(segments.apart(dossier.reference_frame(outcome), case.slices))
        manifest = dossier.write(release, outcome, profile=profile)
        registry.log(
            params={
                "estimator": found.chosen.estimator,
                **found.chosen.params,
                **{k: facts[k] for k in PARAMETERS},
            },
            metrics=dossier.flat_metrics(outcome),
            texts={
                "model_card.md": dossier.model_card(outcome),
                "gates.json": json.dumps(gates.to_dict(outcome.verdict)),
                "gates.md": gates.as_markdown(outcome.verdict),
            },
            images=dossier.pictures(built),
            folder=release,
        )
        for part, context in ((outcome.train, "training"), (outcome.test, "holdout")):
            frame = part.frame().assign(**{case.label: part.y})
            registry.log_dataset(
                frame, name=f"{case.name}-{context}", source=facts["source"], label=case.label, context=context
            )
        scores = pd.DataFrame({"probability": built.scorer.score(outcome.test.x[:5])})
        uri = registry.log_model(release, outcome.test.frame().head(5), scores)
    tags = {
        "verdict": outcome.verdict.verdict,
        "reasons": json.dumps(outcome.verdict.reasons),
        "manifest_sha256": manifest.digest(),
        "snapshot": facts["snapshot"],
        "commit": facts["commit"],
        "as_of": facts["as_of"],
        "reason": facts["reason"],
        "drill": facts["drill"] or "",
        "judged_against": facts["champion"] or "",
        **Cause(**facts["cause"]).tags(),
        **({"prospect": json.dumps(facts["prospect"])} if facts["prospect"] else {}),
    }
    return registry.register(uri, case.name, run_id, tags)


def recipe(version: registry.Version) -> tuple[Trial, str]:
    """Estimator and parameters that a version was fitted with, and the moment it was trained as of (ISO time)."""
    with TemporaryDirectory() as folder:
        facts = json.loads((registry.release_files(version, Path(folder)) / dossier.TRAINING).read_text())
    return Trial(estimator=facts["estimator"], params=facts["params"], folds=(0.0,)), facts["as_of"]


def rival(case: UseCase, joined: pd.DataFrame, test_time: pd.Timestamp, home: Path) -> tuple[str, Rival] | None:
    """Number and scorer of the champion with its own features of the test rows; None before the first release.

    A champion that cannot be loaded or compared is a StoreError, never a missing one: that would let anything pass.
    """
    version = registry.by_alias(case.name, "champion")
    if version is None:
        if (served := transaction.champion_release(home, case.name)) is not None:
            raise StoreError(
                f"{served} answers for {case.name}, but the registry names no champion: a candidate would pass as the "
                "first version. Point MLFLOW_TRACKING_URI to the registry that made it, or roll it out again"
            )
        return None
    with TemporaryDirectory() as folder:
        scorer = Scorer.load(registry.release_files(version, Path(folder)))
    names = scorer.manifest.names
    rows = joined[joined["event_timestamp"] >= test_time]
    if not set(names) <= set(rows):
        store, service = features.open_store(home), scorer.manifest.feature_service
        brought = [f.name for f in case.request]
        rows = features.point_in_time(store, rows[[*case.keys, "event_timestamp", *brought]], service)
    if missing := sorted(set(names) - set(rows)):
        raise StoreError(f"champion {version.number} needs {missing}, which Feast no longer has: it cannot be compared")
    return version.number, Rival(scorer, raw_values(rows, names, scorer.manifest.categorical))
