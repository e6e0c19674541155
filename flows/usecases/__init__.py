"""The declared use cases: one frozen value each, found by name."""

from importlib import import_module
from pathlib import Path

from flows.errors import UseCaseError
from flows.usecases.spec import UseCase

_HERE = Path(__file__).parent
_PARTS = {"__init__", "spec", "retraining"}  # what a declaration is made of


def known() -> tuple[str, ...]:
    """Names of the declared use cases, in alphabetical order."""
    return tuple(sorted(p.stem for p in _HERE.glob("*.py") if p.stem not in _PARTS))


def load(name: str) -> UseCase:
    """The use case of that name; UseCaseError names the known ones."""
    if name not in known():
        raise UseCaseError(
            f"no use case {name!r}; known: {', '.join(known())}. "
            f"Add feature_repo/{name}.py, flows/usecases/{name}.py, bentos/{name}.py"
        )
    use_case: UseCase = import_module(f"flows.usecases.{name}").USE_CASE
    return use_case
