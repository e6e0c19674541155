"""Profiles, by whylogs and datasketches alike: deterministic bytes, any column, honest merges, a process that ends."""

import hashlib
import os
import subprocess
import sys
import time
from decimal import Decimal
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bentos.runtime.monitoring.sketches import OTHER
from flows.errors import StoreError
from flows.steps.monitoring import quantiles
from flows.stores import profiles
from flows.stores.profiles import datasketches, whylogs

ALL_SORTS = {
    "float": [1.5, np.nan, np.inf, -np.inf, 2.5, 1.5],
    "int": [1, 2, 3, 4, 5, 5],
    "nullable": pd.array([1, None, 3, 3, 3, None], dtype="Int64"),
    "null": [None] * 6,
    "nan": [np.nan] * 6,
    "bool": [True, False, True, True, False, False],
    "maybe": pd.array([True, None, False] * 2, dtype="boolean"),
    "text": ["a", None, "b", "a", "", "é"],
    "string": pd.array(["a", None, "b"] * 2, dtype="string"),
    "category": pd.Categorical(["a", "b", None] * 2),
    "numbered": pd.Categorical([1, 2, 2] * 2),
    "time": pd.to_datetime(["2026-01-01", None, "2026-01-02"] * 2, utc=True),
    "span": pd.to_timedelta([1, 2, None] * 2),
    "mixed": pd.Series([1, "a", None, True, 2.5, Decimal("3.5")], dtype=object),
    "lists": [[1], [2, 3], None] * 2,
    "constant": [7.0] * 6,
}
LIBRARIES = (whylogs, datasketches)
WITHOUT = "sys.modules['whylogs'] = sys.modules['whylogs_sketching'] = None  # as where it has no wheel"
RACED = """
import os, signal, threading
from concurrent.futures import ThreadPoolExecutor
import pandas as pd
from flows.stores import profiles

def first(gate):
    gate.wait()
    return profiles.profile(pd.DataFrame({"x": [1.5, 2.5]}))

for _ in range(6):
    if not (process := os.fork()):
        signal.alarm(20)
        sys.setswitchinterval(1e-6)
        with ThreadPoolExecutor(8) as pool:
            os._exit(len(set(pool.map(first, [threading.Barrier(8)] * 8))) - 1)
    assert os.waitpid(process, 0)[1] == 0, "the first profiles of a process, made by threads"
"""
MADE = """
import numpy as np, pandas as pd
from flows.stores import profiles
rng = np.random.default_rng(0)
frame = pd.DataFrame({"x": rng.normal(size=5000), "i": rng.integers(0, 9, 5000), "null": np.nan, "none": None,
                      "t": rng.choice(["a", "b", "c"], 5000)})
made = profiles.profile(frame)
"""
CHECKED = """
import hashlib, threading, time
assert profiles.reference_edges(made, "null", 10) == profiles.reference_edges(made, "none", 10) == ()
assert profiles.sketch(made, "null", edges=[0.0]).missing == 5000
assert profiles.sketch(profiles.merge([made, made]), "null", edges=[0.0]).counts == (0, 0)
assert threading.active_count() == 1, threading.enumerate()
print(profiles.maker.NAME, hashlib.sha256(made).hexdigest(), time.time())
"""


def child(before: str) -> tuple[str, str, float]:
    """Library and digest of a profile made in another process, and the seconds that it took to end after its last line.

    Its code comes after the line `before`.
    """
    environment = {k: v for k, v in os.environ.items() if k != "WHYLOGS_NO_ANALYTICS"}
    command = [sys.executable, "-c", f"import sys; {before}" + RACED + MADE + CHECKED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    library, digest, last = done.stdout.split()
    return library, digest, time.time() - float(last)


@pytest.fixture(params=LIBRARIES, ids=lambda module: module.NAME, autouse=True)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The library that profiles are made with."""
    monkeypatch.setattr(profiles, "maker", request.param)
    found: ModuleType = request.param
    return found


@pytest.fixture(scope="module")
def numbers() -> pd.DataFrame:
    """20,000 rows of three numeric columns, one with holes."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=20_000)
    holes = np.where(rng.random(x.size) < 0.2, np.nan, x)
    return pd.DataFrame({"x": x, "holes": holes, "i": rng.integers(0, 50, x.size)})


def test_the_same_rows_give_the_same_bytes(numbers: pd.DataFrame) -> None:
    """A profile is a function of its rows alone, at any later time."""
    assert profiles.profile(numbers) == profiles.profile(numbers.copy())
    assert profiles.profile(numbers) != profiles.profile(numbers.assign(x=numbers["x"] + 1))


def test_another_process_gives_the_same_bytes_and_ends(library: ModuleType) -> None:
    """Where whylogs can be imported it is chosen. Bytes do not depend on the process's hash seeds, threads that make
    its first profiles do not wait for each other for ever, empty columns do not kill it, and it ends at once."""
    here: dict[str, Any] = {}
    exec(MADE, here)
    name, digest, leaving = child("" if library is whylogs else WITHOUT)
    assert (name, digest) == (library.NAME, hashlib.sha256(here["made"]).hexdigest())
    assert leaving < 10


@pytest.mark.parametrize("name", ALL_SORTS)
def test_any_column_can_be_profiled(name: str) -> None:
    """Every kind of column is profiled, merged and read back, with exact rows and missing values."""
    frame = pd.DataFrame({name: ALL_SORTS[name]})
    made = profiles.merge([profiles.profile(frame), profiles.profile(frame.iloc[:0]), profiles.profile(frame)])
    edges = profiles.reference_edges(made, name, 4)
    words = profiles.sketch(made, name, categories=("a", OTHER))
    assert words.n == 12
    assert words.missing == 2 * int(frame[name].isna().sum())
    assert sum(words.counts) == words.n - words.missing
    sketch = profiles.sketch(made, name, edges=edges)
    assert sum(sketch.counts) + sketch.missing == sketch.n == 12


def test_whylogs_counts_and_types_are_right() -> None:
    """Null, nan, inf, true and the types are counted as whylogs' own logger counts them."""
    from whylogs.core.view import DatasetProfileView

    view = DatasetProfileView.deserialize(whylogs.profile(pd.DataFrame(ALL_SORTS)))
    summary = {name: column.to_summary_dict() for name, column in view.get_columns().items()}
    counted = {key.split("/")[1]: value for key, value in summary["float"].items() if key.startswith("counts/")}
    assert counted == {"n": 6, "null": 1, "nan": 1, "inf": 2, "true": 0}
    assert summary["bool"]["counts/true"] == 3
    assert summary["mixed"]["types/string"] == summary["mixed"]["types/boolean"] == 1
    assert summary["mixed"]["types/fractional"] == 3
    assert summary["time"]["types/object"] == 4
    assert summary["int"]["ints/max"] == 5
    assert summary["int"]["distribution/mean"] == pytest.approx(20 / 6)
    assert summary["int"]["distribution/stddev"] == pytest.approx(np.std([1, 2, 3, 4, 5, 5], ddof=1))


def test_datasketches_counts_and_types_are_right() -> None:
    """The same, and its own classes read the sketches."""
    from datasketches import frequent_strings_sketch, kll_doubles_sketch

    found = datasketches._read(datasketches.profile(pd.DataFrame(ALL_SORTS)))
    floats, mixed, whole = found["float"], found["mixed"], found["int"]
    assert (floats.rows, floats.missing, floats.nan, floats.infinite, floats.true) == (6, 1, 1, 2, 0)
    assert found["bool"].true == 3
    assert (mixed.text, mixed.boolean, mixed.fractional) == (1, 1, 3)
    assert found["time"].other == 4
    assert (whole.low, whole.high) == (1, 5)
    assert whole.moments == (6, pytest.approx(20 / 6), pytest.approx(6 * np.var([1, 2, 3, 4, 5, 5])))
    assert frequent_strings_sketch.deserialize(whole.frequent).get_estimate("5") == 2
    values = np.random.default_rng(1).permutation(5_000).astype(float)
    column = datasketches._read(datasketches.profile(pd.DataFrame({"x": values})))["x"]
    kll = kll_doubles_sketch.deserialize(column.values)
    assert (kll.n, kll.k, kll.get_min_value(), kll.get_max_value()) == (5_000, quantiles.KLL_K, 0, 4_999)
    assert kll.get_quantiles([0.1, 0.5, 0.9]) == pytest.approx([500, 2_500, 4_500], abs=10)


def test_a_library_refuses_the_bytes_of_the_other(library: ModuleType, numbers: pd.DataFrame) -> None:
    """A profile of before a change of library is a clear error, and never half understood."""
    (other,) = {*LIBRARIES} - {library}
    with pytest.raises(StoreError, match=f"not a profile of {library.NAME}.*made with another library"):
        profiles.merge([other.profile(numbers)])


def test_distinct_values_are_counted(numbers: pd.DataFrame) -> None:
    """Within the sketch's error, of a merge too, where parts share values; text and booleans as well."""
    made = profiles.profile(numbers.assign(t=numbers["i"].astype(str), flag=numbers["x"] > 0))
    twice = profiles.merge([made, made])
    for found in (made, twice):
        assert profiles.cardinality(found, "x") == pytest.approx(20_000, rel=0.05)
        assert [round(profiles.cardinality(found, name)) for name in ("i", "t", "flag")] == [50, 50, 2]


@pytest.mark.parametrize("n", [1, 2, 3, 1023, 1024, 1025, 1500, 2047, 2048, 2049, 3001, 65_536, 100_003])
def test_quantiles_are_close_at_any_size(n: int) -> None:
    """Ranks of a profile's quantiles are within 0.1 % of the rows, exact up to 1,024 of them, and n is kept."""
    values = np.random.default_rng(n).permutation(n).astype(float)
    made = profiles.profile(pd.DataFrame({"x": values}))
    edges = np.unique(np.linspace(0, n, 12)[1:-1])
    found = profiles.sketch(made, "x", edges=edges.tolist())
    exact = np.bincount(np.searchsorted(edges, values, side="right"), minlength=edges.size + 1)
    assert sum(found.counts) == found.n == n
    assert np.abs(np.cumsum(found.counts) - np.cumsum(exact)).max() <= (0 if n <= 1024 else 0.001 * n)


@pytest.mark.parametrize("parts", [2, 7, 50])
def test_merged_parts_are_one_profile_within_the_sketch_error(numbers: pd.DataFrame, parts: int) -> None:
    """Counts of merged parts are exact, distributions within 1 % of rank."""
    pieces = [numbers.iloc[i::parts] for i in range(parts)]
    merged = profiles.merge([profiles.profile(piece) for piece in pieces])
    edges = (-1.0, 0.0, 0.5)
    found, whole = (profiles.sketch(made, "holes", edges=edges) for made in (merged, profiles.profile(numbers)))
    assert (found.n, found.missing) == (whole.n, whole.missing)
    assert np.abs(np.cumsum(found.counts) - np.cumsum(whole.counts)).max() < 0.01 * found.n


def test_many_merges_neither_crash_nor_lose_rows() -> None:
    """Sketches of every size merge in any order: their levels are laid out as the library expects."""
    rng = np.random.default_rng(0)
    sizes = [0, 1, 2, 5000, 1024, 1025, 70_000, 3, 2048, 9999] * 3
    made = profiles.merge([profiles.profile(pd.DataFrame({"x": rng.normal(size=n)})) for n in sizes])
    found = profiles.sketch(made, "x", edges=(0.0,))
    assert found.n == sum(sizes) == sum(found.counts)
    assert found.counts[0] == pytest.approx(found.n / 2, rel=0.02)


def test_reference_edges_are_quantiles_without_repeats(numbers: pd.DataFrame) -> None:
    """Edges are the deciles, and a discrete column has each of its values at most once."""
    made = profiles.profile(numbers.assign(flag=(numbers["x"] > 0).astype(int)))
    deciles = np.quantile(numbers["x"], np.linspace(0, 1, 11)[1:-1])
    assert profiles.reference_edges(made, "x", 10) == pytest.approx(tuple(deciles), abs=0.02)
    assert profiles.reference_edges(made, "flag", 10) == (1.0,)


def test_categories_are_counted() -> None:
    """Counts of text and booleans are exact while few, and the rest is other."""
    made = profiles.profile(pd.DataFrame({"t": ["a"] * 5 + ["b"] * 3 + ["c", None], "b": [True] * 4 + [False] * 6}))
    assert profiles.sketch(made, "t", categories=("a", "b")).counts == (5, 3, 1)
    assert profiles.sketch(made, "t", categories=("a", "b")).categories == ("a", "b", OTHER)
    assert profiles.sketch(made, "b", categories=("True", "False")).counts == (4, 6, 0)


def test_what_cannot_be_read_says_why(numbers: pd.DataFrame) -> None:
    """An unknown column, a merge of nothing and what is no profile are errors with what there is and what to do."""
    made = profiles.profile(numbers)
    with pytest.raises(StoreError, match=r"no column 'y'; it has holes, i, x"):
        profiles.sketch(made, "y")
    with pytest.raises(StoreError, match="profile an empty frame instead"):
        profiles.merge([])
    for damaged in (b"", b"PAR1", made[: len(made) // 2]):
        with pytest.raises(StoreError, match="not a profile"):
            profiles.sketch(damaged, "x")
