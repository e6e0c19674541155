"""Accounts of the CPU time that parts of a process take, each its own time without that of other parts it calls.

The clock is the thread's CPU time, so other load on the machine does not count, and a call costs about a microsecond
more.
"""

import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import Any


class Account(threading.local):
    """One thread's nanoseconds by part."""

    every: list[dict[str, int]] = []  # noqa: RUF012  # all threads' own, to add up

    def __init__(self) -> None:
        self.spent: dict[str, int] = {"requests": 0}
        self.inner = 0
        self.every.append(self.spent)


_account = Account()


def charged(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its own CPU time on a part's account."""

    @wraps(function)
    def measured(*args: Any, **named: Any) -> Any:
        outer, _account.inner, began = _account.inner, 0, time.thread_time_ns()
        try:
            return function(*args, **named)
        finally:
            whole = time.thread_time_ns() - began
            spent = _account.spent
            spent[part] = spent.get(part, 0) + whole - _account.inner
            _account.inner = outer + whole

    return measured


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its calls counted as requests."""

    def measured(*args: Any, **named: Any) -> Any:
        _account.spent["requests"] += 1
        return function(*args, **named)

    return measured


def balance() -> dict[str, int]:
    """Nanoseconds by part and the number of requests of all threads, and the CPU time of the whole process."""
    accounts = list(Account.every)
    names = {name for spent in accounts for name in list(spent)}
    return {name: sum(spent.get(name, 0) for spent in accounts) for name in names} | {"cpu": time.process_time_ns()}
