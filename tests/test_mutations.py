"""What always holds is guarded: with the code behind a promise broken in a copy, the test of that promise fails."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import SHARED

ROOT = Path(__file__).parents[1]
COPIED = ("flows", "bentos", "feature_repo", "tests", "pyproject.toml", "prefect.yaml", "bentofile.yaml", "README.md")


@dataclass(frozen=True)
class Mutation:
    """A promise of the design, by its number there, one place of the code broken, and the test that must notice."""

    promise: str
    file: str
    breaks: tuple[tuple[str, str], ...]
    noticed_by: str


MUTATIONS = (
    Mutation(
        "1 what is not promoted is not released",
        "flows/stores/admission.py",
        (('if version.verdict != "PROMOTE":', "if False:"),),
        "tests/flows/test_release.py::test_what_the_gates_did_not_promote_is_not_released",
    ),
    Mutation(
        "1 what is not promoted never answers",
        "bentos/runtime/scoring/release.py",
        (('if manifest.verdict != "PROMOTE":', "if False:"),),
        "tests/bentos/test_predictor.py::test_a_release_without_a_promote_verdict_never_answers",
    ),
    Mutation(
        "1 a failed gate rejects",
        "flows/steps/gating/gates.py",
        (('if failed - {"HOLD"} or not results:', "if not results:"),),
        "tests/flows/steps/test_planted.py::test_the_named_gate_rejects",
    ),
    Mutation(
        "2 a promotion beats noise",
        "flows/steps/gating/comparisons.py",
        (("gain.low > 0 and gain.value >= limit", "gain.value > 0"),),
        "tests/flows/steps/test_gates.py::test_an_equal_model_is_hardly_ever_promoted",
    ),
    Mutation(
        "3 features do not see the future",
        "flows/usecases/churn.py",
        (('events[events["purchased_at"] < as_of]', 'events[events["purchased_at"] <= as_of + pd.Timedelta(days=9)]'),),
        "tests/flows/test_usecases.py::test_features_do_not_see_the_future",
    ),
    Mutation(
        "3 labels are used once mature",
        "flows/steps/data/cohorts.py",
        (("if c + horizon <= as_of]", "if c <= as_of]"),),
        "tests/flows/steps/test_cohorts.py::test_a_cutoff_is_mature_on_the_day_that_its_horizon_ends",
    ),
    Mutation(
        "3 the label's horizon lies between training and test",
        "flows/steps/data/cohorts.py",
        (("if c + horizon <= mature[-1])", "if c < mature[-1])"),),
        "tests/flows/steps/test_cohorts.py::test_every_split_leaves_the_horizon_between",
    ),
    Mutation(
        "3 a label is hidden until it is known",
        "flows/steps/data/cohorts.py",
        (("        if column.delay_days:", "        if column.delay_days < 0:"),),
        "tests/flows/steps/test_cohorts.py::test_what_was_not_known_yet_is_missing",
    ),
    Mutation(
        "3 the labels of training events matured before the test",
        "flows/steps/data/cohorts.py",
        (("stop = test - horizon", "stop = test"),),
        "tests/flows/steps/test_cohorts.py::test_event_windows_leave_the_label_time_on_both_sides",
    ),
    Mutation(
        "3 risk features use labels that are known",
        "flows/usecases/fraud.py",
        (("settled = as_of - pd.Timedelta(days=DELAY_DAYS)", "settled = as_of"),),
        "tests/flows/test_usecases.py::test_terminal_risk_by_hand",
    ),
    Mutation(
        "3 an event sees nothing younger than itself online",
        "bentos/runtime/features/rows.py",
        (("else times > moment\n", "else times > moment + 1e9\n"),),
        "tests/bentos/test_events.py::test_values_younger_than_the_row_are_not_used",
    ),
    Mutation(
        "4 a row scores the same in any batch",
        "bentos/runtime/scoring/model.py",
        (
            ('("whole", "blocks") if operators(content) <= ROW_BY_ROW else ("blocks",)', '("whole",)'),
            ("return bool(same.all())", "return True"),
        ),
        "tests/bentos/test_scorer.py::test_a_row_scores_the_same_bits_in_every_batch_size_and_order",
    ),
    Mutation(
        "4 the exported trees split where the fitted ones do",
        "flows/steps/training/export.py",
        (('if not hasattr(model, "_predictors"):', "if True:"),),
        "tests/flows/steps/test_categorical.py::test_numbers_alone_keep_parity_at_split_points",
    ),
    Mutation(
        "4 a category that training never saw is no other",
        "bentos/runtime/scoring/categories.py",
        (("texts, repeat(NOT_FOUND)", "texts, repeat(0.0)"),),
        "tests/flows/steps/test_categorical.py::test_the_preprocessing_is_the_fitted_one",
    ),
    Mutation(
        "5 what is older than its ttl is missing online",
        "bentos/runtime/features/rows.py",
        (("(moment - seconds > view.ttl.total_seconds())", "(moment < seconds)"),),
        "tests/bentos/test_online.py::test_online_equals_the_offline_join_at_any_time",
    ),
    Mutation(
        "5 a packed vector is never older than the feature store",
        "bentos/runtime/features/packed_sqlite.py",
        (("WHERE entity_key = {row}.entity_key; END", "WHERE {row}.entity_key IS NULL; END"),),
        "tests/bentos/test_packed.py::test_a_write_past_the_packing_is_seen_at_once_by_a_reader_that_is_open[sqlite]",
    ),
    Mutation(
        "5 a value is kept for the feature cache's time at most",
        "bentos/runtime/features/cache.py",
        (("if until <= moment]", "if until == -math.inf]"),),
        "tests/bentos/test_cache.py::test_values_and_unknown_entities_are_kept_for_the_same_time_and_no_longer[sqlite]",
    ),
    Mutation(
        "6 an answer is in the journal before it leaves",
        "bentos/runtime/predictor.py",
        (
            (
                "self._journal.append(done.lines)",
                "threading.Timer(0.05, self._journal.append, [done.lines]).start()",
            ),
        ),
        "tests/bentos/test_serving.py::test_sigkill_under_load_loses_no_answer",
    ),
    Mutation(
        "6 what cannot be journalled is not answered",
        "bentos/runtime/predictor.py",
        (("[r if isinstance(r, RowError) else refused for r in part] for part in", "[*part] for part in"),),
        "tests/bentos/test_predictor.py::test_nothing_is_answered_that_cannot_be_journalled",
    ),
    Mutation(
        "6 a batch that was not written whole leaves nothing",
        "bentos/runtime/journal.py",
        (("os.ftruncate(fd, self._length)", "pass"),),
        "tests/bentos/test_journal.py::test_a_full_disk_refuses_the_batch_and_leaves_no_part_of_it",
    ),
    Mutation(
        "7 one bad row never fails its neighbours",
        "bentos/runtime/scoring/given.py",
        (("self._not_numbers(given[at]) or found[given_at[at]]", "found[given_at[at]]"),),
        "tests/bentos/test_predictor.py::test_one_bad_row_gets_its_own_error_and_its_neighbours_their_answers",
    ),
    Mutation(
        "8 an altered model is not loaded",
        "bentos/runtime/scoring/manifest.py",
        (("if (found := sha256(file)) != expected:", "if (found := sha256(file)) != expected and not found:"),),
        "tests/bentos/test_scorer.py::test_an_altered_model_is_refused",
    ),
    Mutation(
        "9 a killed release is completed or reverted",
        "flows/stores/transaction.py",
        (("if pending.committed:", "if not pending.committed:"),),
        "tests/flows/stores/test_transaction.py::test_before_the_commit_it_reverts",
    ),
    Mutation(
        "10 retraining has a lock",
        "flows/stores/locks.py",
        (("fcntl.LOCK_EX | (0 if wait", "fcntl.LOCK_SH | (0 if wait"),),
        "tests/flows/stores/test_locks.py::test_one_holder_per_name",
    ),
    Mutation(
        "10 retraining has a cooldown",
        "flows/steps/monitoring/policy.py",
        (("if not waits or now >= max(waits)[0]:", "if waits or not waits:"),),
        "tests/flows/steps/test_policy.py::test_any_verdict_starts_the_cooldown",
    ),
    Mutation(
        "11 chance alone raises no drift alarm",
        "bentos/runtime/monitoring/drift.py",
        (
            ('if values["psi"] - expected > rules.max_psi:', "if True:"),
            ("if TESTS * chance <= limit]", "if chance <= 0.05]"),
        ),
        "tests/flows/steps/test_drift.py::test_windows_without_drift_raise_no_alarm",
    ),
    Mutation(
        "11 broken data reach no training",
        "flows/steps/data/cohorts.py",
        (("    mature = sound(use_case, mature, without)\n", ""),),
        "tests/flows/steps/test_quarantine.py::test_the_split_goes_round_a_period",
    ),
    Mutation(
        "12 the service imports no training tool",
        "bentos/runtime/home.py",
        (("import os\n", "import os\nimport mlflow\n"),),
        "tests/test_architecture.py::test_importing_the_service_leaves_training_tools_out",
    ),
)


def broken(mutation: Mutation, folder: Path) -> Path:
    """A copy of the project with the mutation in it; each place must be there, and once."""
    for name in COPIED:
        source, copy = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, copy)  # with its bytecode, which is of the same times and so still good
        else:
            shutil.copy(source, copy)
    path = folder / mutation.file
    text = path.read_text()
    for old, new in mutation.breaks:
        assert text.count(old) == 1, f"{mutation.file} has {text.count(old)} times {old!r}: mend the mutation"
        text = text.replace(old, new)
    path.write_text(text)
    return folder


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.promise.replace(" ", "-"))
def test_a_broken_promise_is_noticed(mutation: Mutation, tmp_path: Path) -> None:
    """The guarding test, which passes on the project as it is, fails on the copy."""
    copy = broken(mutation, tmp_path)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "BENTOFLOW_"))}
    if not (Path(clean[SHARED]) / "bases.pickle").exists():
        del clean[SHARED]  # broken code makes nothing that others use
    quick = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # importing every plugin would take most of the time
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "pytest_timeout",
            mutation.noticed_by,
        ],
        cwd=copy,
        env={**clean, **quick, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
    assert re.search(r"^1 failed", done.stdout, flags=re.M), done.stdout[-2000:]
