"""score: the batch gives what the service gives, resumes where it stopped, and refuses tables that it cannot read."""

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bentos.runtime import clock
from flows.errors import ContractError, ReleaseError
from flows.prepare import prepare
from flows.score import score
from tests.flows.conftest import AS_OF, champion, decided

UNKNOWN = 10**9


def known(home: Path) -> pd.Series:
    return pd.read_parquet(home / "features" / "churn" / "as_of=1998-01-01.parquet")["user_id"]


def table(folder: Path, ids: object, name: str = "customers.parquet") -> str:
    path = folder / name
    frame = pd.DataFrame({"user_id": ids})
    frame.to_csv(path, index=False) if name.endswith(".csv") else frame.to_parquet(path)
    return str(path)


def result(done: dict[str, object]) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(Path(str(done["out"])) / name) for name in done["files"]], ignore_index=True)  # type: ignore[attr-defined]


def test_batch_scores_equal_the_services_bit_for_bit(released: Path) -> None:
    """For every customer the batch's score and decision are those of the service path on the online features."""
    found = result(score("churn", partition_rows=700))
    served = champion(released)
    answers = decided(served, [{"user_id": int(i)} for i in found["user_id"]], AS_OF)
    assert {record["state"] for record in answers} == {"ok"}
    assert [r["score"] for r in answers] == found["score"].tolist()
    assert [r["decision"] for r in answers] == found["decision"].tolist()
    assert found["user_id"].tolist() == known(released).tolist()
    assert set(found["release"]) == {served.release}
    assert set(found["as_of"]) == {pd.Timestamp(AS_OF)}


def test_one_by_one_equals_the_batch(released: Path, tmp_path: Path) -> None:
    """A row's score depends neither on its partition nor on its neighbours."""
    ids = known(released).head(40)
    whole = result(score("churn", table(tmp_path, ids), out=str(tmp_path / "whole")))
    parts = result(score("churn", table(tmp_path, ids[::-1]), out=str(tmp_path / "parts"), partition_rows=7))
    again = parts.set_index("user_id").loc[whole["user_id"]].reset_index()
    pd.testing.assert_frame_equal(again, whole)


def test_unknown_entities_get_no_score(released: Path, tmp_path: Path) -> None:
    """Who is not known has neither score nor decision, in their place of the table."""
    ids = [UNKNOWN, *known(released).head(3), UNKNOWN + 1]
    found = result(score("churn", table(tmp_path, ids), out=str(tmp_path / "out")))
    assert found["user_id"].tolist() == ids
    assert found["features"].tolist() == ["unknown", "ok", "ok", "ok", "unknown"]
    assert found["score"].isna().tolist() == found["decision"].isna().tolist() == [True, False, False, False, True]


def test_a_partition_of_nobody_known_can_be_read_with_the_others(released: Path, tmp_path: Path) -> None:
    """A partition without any score has the columns and types of its siblings."""
    ids = [UNKNOWN, UNKNOWN + 1, *known(released).head(2)]
    done = score("churn", table(tmp_path, ids), out=str(tmp_path / "out"), partition_rows=2)
    whole = pd.read_parquet(done["out"])
    assert whole["score"].notna().sum() == 2


def test_a_second_run_computes_nothing(released: Path) -> None:
    """The same run again names the same files, computes none of them and writes none."""
    first = score("churn", partition_rows=500)
    times = {p.name: p.stat().st_mtime_ns for p in Path(first["out"]).glob("*.parquet")}
    again = score("churn", partition_rows=500)
    assert first["computed"] == len(first["files"]) == 4
    assert again == {**first, "computed": 0}
    assert {p.name: p.stat().st_mtime_ns for p in Path(first["out"]).glob("*.parquet")} == times


def test_a_half_finished_run_resumes(released: Path) -> None:
    """After a kill only what is missing is computed, and the result is the same."""
    first = score("churn", partition_rows=500)
    before = result(first)
    for name in first["files"][1:3]:
        (Path(first["out"]) / name).unlink()
    again = score("churn", partition_rows=500)
    assert again == {**first, "computed": 2}
    pd.testing.assert_frame_equal(result(again), before)


def test_another_moment_is_scored_anew(released: Path, tmp_path: Path) -> None:
    """Another day has its own folder; features beyond their ttl are marked and scored as the service does."""
    path, out = table(tmp_path, known(released).head(50)), str(tmp_path / "out")
    first = score("churn", path, out)
    now = AS_OF + timedelta(days=46)
    later = score("churn", path, out, as_of=now)
    assert first["out"] != later["out"]
    assert later["computed"] == 1
    found, asked = result(later), [{"user_id": int(i)} for i in known(released).head(50)]
    records = decided(champion(released), asked, now)
    assert set(found["features"]) == {r["state"] for r in records} == {"expired"}
    assert found["score"].tolist() == [r["score"] for r in records]


def test_the_result_is_marked_complete_at_its_end(released: Path) -> None:
    """`_SUCCESS.json` lists every file and all rows, and other releases or moments are in other folders."""
    done = score("churn", partition_rows=500)
    marked = json.loads((Path(done["out"]) / "_SUCCESS.json").read_text())
    assert marked == {"rows": done["rows"], "files": done["files"]}
    assert sorted(p.name for p in Path(done["out"]).glob("*.parquet")) == sorted(done["files"])
    assert champion(released).release.split(":")[1] in Path(done["out"]).name


def test_a_csv_is_scored_like_a_parquet(released: Path, tmp_path: Path) -> None:
    """Text formats have no types; a column of whole numbers is read as such."""
    ids = known(released).head(20)
    parquet = result(score("churn", table(tmp_path, ids), out=str(tmp_path / "a")))
    csv = result(score("churn", table(tmp_path, ids, "customers.csv"), out=str(tmp_path / "b")))
    pd.testing.assert_frame_equal(csv, parquet)


def test_a_table_without_the_entity_is_refused(released: Path, tmp_path: Path) -> None:
    """The error names the column that is missing and the ones that are there."""
    path = tmp_path / "wrong.parquet"
    pd.DataFrame({"customer": [1], "amount": [2.0]}).to_parquet(path)
    with pytest.raises(ContractError, match="has no column 'user_id', it has customer, amount"):
        score("churn", str(path))


@pytest.mark.parametrize("ids", [[1.5, 2.0], ["one", "two"], [1.0, np.nan]], ids=["fractions", "text", "gaps"])
@pytest.mark.parametrize("name", ["customers.parquet", "customers.csv"])
def test_entities_of_another_type_are_refused(released: Path, tmp_path: Path, ids: list[object], name: str) -> None:
    """Fractions, text and gaps are no customer numbers, and nothing is scored."""
    with pytest.raises(ContractError, match="rows are bad"):
        score("churn", table(tmp_path, ids, name), out=str(tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_without_a_champion_the_error_says_what_to_do(prepared: Path) -> None:
    """Before the first release nothing is scored."""
    with pytest.raises(ReleaseError, match="run `bentoflow train` and `bentoflow release`"):
        score("churn")


def test_the_newest_prepare_decides_the_moment(released: Path) -> None:
    """Without `as_of` the scores are of the day that the data were prepared for, whatever the clock says."""
    clock.write(released, "churn", AS_OF + timedelta(days=10))
    assert set(result(score("churn"))["as_of"]) == {pd.Timestamp(AS_OF)}


def test_corrected_data_are_scored_anew(released: Path, tmp_path: Path) -> None:
    """When the features of the same moment were prepared again from corrected events, old scores are not handed out."""
    first = score("churn")
    path = released / "features" / "churn" / "as_of=1998-01-01.parquet"
    rows = pd.read_parquet(path)
    events = pd.read_parquet(next((released / "snapshots" / "churn").glob("*.parquet")))
    corrected = events.assign(amount=events["amount"] * 2, purchased_at=events["purchased_at"].dt.strftime("%Y%m%d"))
    feed = tmp_path / "corrected.csv"
    corrected[corrected["amount"] <= 1_500].to_csv(feed, index=False)
    prepare("churn", AS_OF, {"url": str(feed), "format": "csv"})
    assert not pd.read_parquet(path).equals(rows)
    again = score("churn")
    assert again["computed"] == len(again["files"]) == len(first["files"])
