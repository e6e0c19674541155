"""`python -m tests.bench [name]`: run every benchmark, or one, and keep the figures."""

import importlib
import sys
from pathlib import Path

from bentos.runtime.home import home
from tests.bench import figures


def main(names: list[str]) -> None:
    """Run the named benchmarks; a benchmark is a module or package here with `run() -> list[Figure]`.

    The exit status is 1 if a figure whose name ends in `.failures` is not zero.
    """
    folder = Path(__file__).parent
    found = [p for p in (*folder.glob("*.py"), *folder.glob("*/__init__.py")) if "\ndef run(" in p.read_text()]
    known = sorted(p.parent.name if p.name == "__init__.py" else p.stem for p in found)
    if unknown := set(names) - set(known):
        raise SystemExit(f"no benchmark {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    failed: list[str] = []
    for name in names or known:
        measured = importlib.import_module(f"tests.bench.{name}").run()
        figures.merge(home() / "bench.json", measured)
        print(f"\n{figures.table(measured)}\n\nmerged into {home() / 'bench.json'}", flush=True)
        failed += [f.name for f in measured if f.name.endswith(".failures") and f.value]
    if failed:
        raise SystemExit(f"not everything was answered as it must be: {', '.join(failed)}; see FAILED above")


if __name__ == "__main__":
    main(sys.argv[1:])
