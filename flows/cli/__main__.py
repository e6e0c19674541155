"""`python -m flows.cli`: the `bentoflow` command where no script is installed."""

from flows.cli import main

main()
