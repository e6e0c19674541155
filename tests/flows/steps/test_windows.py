"""Windows: parts merge to the whole, exactly; repeated rows are found from a small sample."""

import numpy as np
import pandas as pd
import pytest

from bentos.runtime.monitoring import copies
from flows.steps.monitoring import windows
from tests.flows.steps import scenarios


def frame(n: int, seed: int = 0) -> pd.DataFrame:
    x = scenarios.world(np.random.default_rng(seed), n)
    return x.assign(score=scenarios.score(x), amount=x["amount"].where(x.index % 7 > 0))


def test_parts_in_any_order_merge_to_the_whole() -> None:
    """Columns, scores and repeated rows of three parts are those of all rows counted at once."""
    whole = pd.concat([frame(1_500), frame(400)], ignore_index=True)
    then = scenarios.sketches.reference(frame(1_000, 1))
    parts = [windows.count(whole.iloc[a:b], then) for a, b in ((0, 200), (200, 1_300), (1_300, 1_900))]
    assert windows.merge(parts) == windows.merge(parts[::-1]) == windows.count(whole, then)


def test_a_window_survives_json() -> None:
    """What is written is what is read, and anything else is refused."""
    made = windows.count(frame(300), scenarios.sketches.reference(frame(500, 1)))
    assert windows.from_json(windows.to_json(made)) == made
    with pytest.raises(ValueError, match="not a window"):
        windows.from_json("[]")


@pytest.mark.parametrize(("times", "share"), [(1, 0.0), (2, 0.5), (4, 0.75)])
def test_the_share_of_repeated_rows_is_estimated(times: int, share: float) -> None:
    """Where every row comes several times, so do those of the sample."""
    assert copies.share(copies.sample(pd.concat([frame(3_000)] * times))) == pytest.approx(share)


def test_some_repeated_rows_are_estimated() -> None:
    """A third of the rows twice is a quarter of repeats, within the error of a sample of 512."""
    rows = frame(6_000)
    found = copies.share(copies.sample(pd.concat([rows, rows.iloc[:2_000]])))
    assert found == pytest.approx(0.25, abs=0.05)


def test_what_tells_rows_apart_counts() -> None:
    """The same features at another time are another row."""
    rows = pd.concat([frame(50)] * 2, ignore_index=True)
    then = scenarios.sketches.reference(frame(500, 1))
    times = pd.DataFrame({"time": np.repeat([1, 2], 50)})
    assert copies.share(windows.count(rows, then).copies) == 0.5
    assert copies.share(windows.count(rows, then, times).copies) == 0
    assert copies.share(()) == 0


def test_rows_of_one_entity_are_counted_over_all_parts() -> None:
    """A row's entity has three rows on average where half of the rows are of one with five; nobody is no entity."""
    rows, then = frame(20), scenarios.sketches.reference(frame(500, 1))
    keys = pd.DataFrame(
        {"entity": ["a"] * 5 + ["b"] * 5 + [str(i) for i in range(8)] + ["None"] * 2, "wall": range(20)}
    )
    parts = [windows.count(rows.iloc[a:b], then, keys.iloc[a:b]) for a, b in ((0, 7), (7, 20))]
    assert windows.merge(parts).repeats == pytest.approx((25 + 25 + 8) / 18)
    assert windows.count(rows, then).repeats == 1
    assert windows.from_json(windows.to_json(windows.merge(parts))) == windows.merge(parts)
