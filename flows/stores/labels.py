"""Labels that a team collected itself: a parquet table of request ids."""

import pandas as pd

from flows.errors import ContractError
from flows.stores import tables
from flows.usecases.spec import PathSource


def table(url: str) -> pd.DataFrame:
    """`request_id` and `label` (0 or 1) of a parquet table; ContractError says which column or value is wrong."""
    read = tables.read(PathSource(url=url, format="parquet"))
    if missing := sorted({"request_id", "label"} - set(read)):
        raise ContractError(f"{url} has no {', '.join(missing)}; it has {', '.join(map(str, read.columns))}")
    if twice := sorted(set(read.loc[read["request_id"].duplicated(), "request_id"].astype(str))):
        raise ContractError(
            f"{url} has {len(twice)} request ids more than once, such as {twice[0]}: one label for each"
        )
    labels = pd.to_numeric(read["label"], errors="coerce")
    if not labels.isin([0, 1]).all():
        wrong = read.loc[~labels.isin([0, 1]), "label"]
        raise ContractError(f"{url} has {len(wrong)} labels that are not 0 or 1, such as {wrong.iloc[0]}")
    return read[["request_id"]].assign(label=labels.astype("int64"))


def by_request(url: str) -> dict[str, int]:
    """The label of each request id of a table, which `table` reads."""
    found = table(url)
    return dict(zip(found["request_id"].astype(str), found["label"].tolist(), strict=True))
