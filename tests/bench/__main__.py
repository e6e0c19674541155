"""`python -m tests.bench [name]`: run every benchmark, or one, and keep the figures."""

import importlib
import sys
from pathlib import Path

from bentos.runtime.home import home
from tests.bench import figures


def main(names: list[str]) -> None:
    """Run the named benchmarks; a benchmark is a module here with `run() -> list[Figure]`."""
    folder = Path(__file__).parent
    known = sorted(p.stem for p in folder.glob("*.py") if "\ndef run(" in p.read_text())
    if unknown := set(names) - set(known):
        raise SystemExit(f"no benchmark {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    for name in names or known:
        found = importlib.import_module(f"tests.bench.{name}").run()
        figures.merge(home() / "bench.json", found)
        print(f"\n{figures.table(found)}\n\nmerged into {home() / 'bench.json'}")


if __name__ == "__main__":
    main(sys.argv[1:])
