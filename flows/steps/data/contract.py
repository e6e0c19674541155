"""A table's contract: types, ranges, keys; bad rows are set apart with their reason, bad tables are refused."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pa

from flows.errors import ContractError
from flows.steps.data.parsing import UTC_US, Parsed, parse_column
from flows.usecases.spec import Column, Contract

REASON: Final = "reason"
DTYPES: Final[dict[str, Any]] = {"int": "Int64", "float": "float64", "str": object, "time": UTC_US}
NOUNS: Final = {"int": "a whole number", "float": "a finite number", "str": "text", "time": "a time"}


@dataclass(frozen=True)
class Checked:
    """`good` is typed; `bad` holds the raw values as text, their row in the source as index, and `reason`."""

    good: pd.DataFrame
    bad: pd.DataFrame
    report: dict[str, Any]


@dataclass(frozen=True)
class _Fault:
    """One broken rule of a column (or the key): the rows and the value found in each."""

    rule: str
    rows: npt.NDArray[np.int64]
    values: list[str]


def parse(frame: pd.DataFrame, contract: Contract, *, time_format: str | None = None) -> pd.DataFrame:
    """The contract's columns in its types; what cannot be read becomes missing (`check` sets such rows apart).

    Kinds: int64 (Int64 where nullable or something is missing), float64, object strings, datetime64[us, UTC]. Times
    without a zone are UTC; `time_format` is a strptime format or an epoch unit (s, ms, us, ns). Raises ContractError
    for a missing or ambiguous column, or a contract that contradicts itself.
    """
    return _typed(_parsed(frame, contract, time_format), frame.index, contract)


def check(frame: pd.DataFrame, contract: Contract, *, time_format: str | None = None) -> Checked:
    """Divide a table into rows that keep the contract and rows that break it, each with every reason.

    A repeated key makes the later row bad, judged among rows without other faults. Raises ContractError, with `bad`
    and `report`, for a missing column, too many exact copies of rows, too many bad rows or too few good ones.
    """
    parsed = _parsed(frame, contract, time_format)
    typed = pd.DataFrame({name: column.values.reset_index(drop=True) for name, column in parsed.items()})
    unread = np.zeros(len(frame), dtype=bool)
    for column in parsed.values():
        unread |= column.failed
    copies = int(typed[~unread].duplicated().sum())
    faults = [*_unread(frame, contract, parsed, time_format), *_broken(typed, contract, parsed)]
    wrong = np.zeros(len(frame), dtype=bool)
    for fault in faults:
        wrong[fault.rows] = True
    faults += _repeated(typed, contract, wrong)
    for fault in faults:
        wrong[fault.rows] = True
    good = _typed({name: Parsed(c.values[~wrong], c.failed[~wrong]) for name, c in parsed.items()}, None, contract)
    bad = _quarantine(frame, contract, wrong, faults)
    report = _report(frame, contract, bad, faults, copies)
    _refuse(report, contract, bad)
    return Checked(good, bad, report)


def _declared(contract: Contract) -> None:
    names = [column.name for column in contract.columns]
    if len(set(names)) < len(names) or REASON in names:
        raise ContractError(f"contract: column names {names} repeat, or use '{REASON}'; rename them in the contract")
    for column in contract.columns:
        bounded = column.minimum is not None or column.maximum is not None
        if bounded and column.kind not in ("int", "float"):
            raise ContractError(f"contract: {column.name} is {column.kind}, bounds are for int and float; remove them")
        if column.allowed and column.kind == "time":
            raise ContractError(f"contract: {column.name} is a time and cannot list allowed values; remove them")
    if unknown := [name for name in contract.unique if name not in names]:
        raise ContractError(f"contract: unique names {unknown}, which are no columns; known: {', '.join(names)}")


def _parsed(frame: pd.DataFrame, contract: Contract, time_format: str | None) -> dict[str, Parsed]:
    _declared(contract)
    names, found = [column.name for column in contract.columns], list(frame.columns)
    if missing := [name for name in names if name not in found]:
        raise ContractError(
            f"the table has no column {', '.join(map(repr, missing))}; it has: "
            f"{', '.join(map(str, found)) or 'none'}. Add it to the source, or correct the contract"
        )
    if twice := [name for name in names if found.count(name) > 1]:
        raise ContractError(f"the table has column {twice[0]!r} more than once; name each column once in the source")
    return {column.name: parse_column(frame[column.name], column.kind, time_format) for column in contract.columns}


def _typed(parsed: dict[str, Parsed], index: pd.Index | None, contract: Contract) -> pd.DataFrame:
    frame = pd.DataFrame({name: column.values.reset_index(drop=True) for name, column in parsed.items()})
    whole = [c.name for c in contract.columns if c.kind == "int" and not c.nullable and not frame[c.name].hasnans]
    frame = frame.astype(dict.fromkeys(whole, "int64"))
    return frame if index is None else frame.set_axis(index)


def _shown(value: object, column: Column) -> str:
    if column.pii != "no":
        return "(hidden)"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unread(
    frame: pd.DataFrame, contract: Contract, parsed: dict[str, Parsed], time_format: str | None
) -> list[_Fault]:
    faults = []
    for column in contract.columns:
        rows = np.flatnonzero(parsed[column.name].failed)
        if len(rows):
            form = f" of format {time_format}" if column.kind == "time" and time_format else ""
            values = [_shown(value, column) for value in frame[column.name].iloc[rows]]
            faults.append(_Fault(f"{column.name}: not {NOUNS[column.kind]}{form}", rows, values))
    return faults


def _rules(column: Column) -> list[pa.Check]:
    rules = []
    if column.minimum is not None:
        rules.append(pa.Check.ge(column.minimum, error=f"below minimum {column.minimum:g}"))
    if column.maximum is not None:
        rules.append(pa.Check.le(column.maximum, error=f"above maximum {column.maximum:g}"))
    if column.allowed:
        known = ", ".join(map(str, column.allowed[:5])) + (", ..." if len(column.allowed) > 5 else "")
        rules.append(pa.Check.isin(column.allowed, error=f"not one of {known}"))
    return rules


def _broken(typed: pd.DataFrame, contract: Contract, parsed: dict[str, Parsed]) -> list[_Fault]:
    columns = {column.name: column for column in contract.columns}
    schema = pa.DataFrameSchema(
        {c.name: pa.Column(DTYPES[c.kind], _rules(c), nullable=c.nullable) for c in contract.columns}
    )
    try:
        schema.validate(typed, lazy=True)
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases
    else:
        return []
    faults = []
    for (name, rule), group in cases.groupby(["column", "check"], sort=False):
        rows, found = group["index"].to_numpy(dtype=np.int64), group["failure_case"].to_numpy(dtype=object)
        if rule == "not_nullable":
            rows = rows[~parsed[name].failed[rows]]  # said already: what is there could not be read
            faults.append(_Fault(f"{name}: missing", rows, [""] * len(rows)))
        else:
            faults.append(_Fault(f"{name}: {rule}", rows, [_shown(value, columns[name]) for value in found]))
    return [fault for fault in faults if len(fault.rows)]


def _repeated(typed: pd.DataFrame, contract: Contract, wrong: npt.NDArray[np.bool_]) -> list[_Fault]:
    if not contract.unique:
        return []
    key, columns = list(contract.unique), {column.name: column for column in contract.columns}
    right = typed.loc[~wrong, key]
    again = right[right.duplicated()]
    if again.empty:
        return []
    values = [
        ", ".join(_shown(value, columns[name]) for name, value in zip(key, row, strict=True))
        for row in again.itertuples(index=False)
    ]
    return [_Fault(f"{', '.join(key)}: repeats the key", again.index.to_numpy(dtype=np.int64), values)]


def _quarantine(
    frame: pd.DataFrame, contract: Contract, wrong: npt.NDArray[np.bool_], faults: list[_Fault]
) -> pd.DataFrame:
    reason = np.full(len(frame), "", dtype=object)
    for fault in faults:
        told = np.array([f"{fault.rule}: {value}" if value else fault.rule for value in fault.values], dtype=object)
        before = reason[fault.rows]
        reason[fault.rows] = np.where(before == "", told, before + "; " + told)
    rows = np.flatnonzero(wrong)
    bad = frame.iloc[rows][[column.name for column in contract.columns]].astype(object)
    bad = bad.map(lambda value: str(value).encode("utf-8", "backslashreplace").decode(), na_action="ignore")
    bad = bad.astype(object).where(bad.notna(), None)
    return bad.set_axis(pd.Index(rows, name="row")).assign(**{REASON: reason[rows]})


def _report(
    frame: pd.DataFrame, contract: Contract, bad: pd.DataFrame, faults: list[_Fault], copies: int
) -> dict[str, Any]:
    rows, known = len(frame), {column.name for column in contract.columns}
    return {
        "rows": rows,
        "good": rows - len(bad),
        "bad": len(bad),
        "bad_share": len(bad) / max(rows, 1),
        "duplicates": copies,
        "duplicate_share": copies / max(rows, 1),
        "extra_columns": [str(name) for name in frame.columns if name not in known],
        "reasons": {fault.rule: len(fault.rows) for fault in faults},
    }


def _refuse(report: dict[str, Any], contract: Contract, bad: pd.DataFrame) -> None:
    rows, why = report["rows"], ", ".join(f"{rule} ({count})" for rule, count in report["reasons"].items())
    if report["duplicate_share"] > contract.max_duplicate_share:
        problem = (
            f"{report['duplicates']} of {rows} rows are exact copies, {report['duplicate_share']:.2%}, allowed "
            f"{contract.max_duplicate_share:.2%}; was a delivery loaded twice? Remove it, or raise "
            "max_duplicate_share"
        )
    elif report["bad_share"] > contract.max_bad_share:
        problem = (
            f"{report['bad']} of {rows} rows are bad, {report['bad_share']:.2%}, allowed "
            f"{contract.max_bad_share:.2%}: {why}. Correct the source, or the rule in the contract"
        )
    elif report["good"] < contract.min_rows:
        problem = (
            f"{report['good']} good rows of {rows}, fewer than min_rows {contract.min_rows}"
            f"{': ' + why if why else ''}. Was the delivery cut short? Load it whole, or lower min_rows"
        )
    else:
        return
    raise ContractError(problem, bad=bad, report=report)
