# People, hooks and CI share these targets. Every one sets up what it needs first; only Python 3.11 or 3.12 must be there.
VENV   := .bentoflow/venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
ARGS   ?=
ONLY   ?=
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: demo test check up down bench clean help

demo: $(READY)   ## run the whole closed loop on real purchases and write a page that shows it
	@$(BIN)/bentoflow demo $(ARGS)

test: $(READY)   ## run the tests; ARGS="-m integration" goes to pytest
	@$(BIN)/python -m pytest -n $(WORKERS) --no-loadscope-reorder $(ARGS)

check: $(READY)   ## lint, types and the architecture test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/test_architecture.py

up: $(READY)   ## start Prefect, a worker with every deployment, MLflow and the service; prints the addresses
	@$(BIN)/bentoflow up $(ARGS)

down: $(READY)   ## stop what `make up` started
	@$(BIN)/bentoflow down

bench: $(READY)   ## run the benchmarks; ONLY=name runs one
	@$(BIN)/python -m tests.bench $(ONLY)

clean:   ## remove all state, the virtual environment included
	@[ ! -x $(BIN)/bentoflow ] || $(BIN)/bentoflow down
	rm -rf .bentoflow

help:   ## show this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*## */\t/' | expand -t 10

$(READY): requirements.lock pyproject.toml
	@set -eu; mkdir -p .bentoflow; \
	for p in $(PYTHON) python3 python3.12 python3.11; do \
	  if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; then found=$$p; break; fi; \
	done; \
	[ -n "$${found:-}" ] || { echo "Python 3.11 or 3.12 is needed; found: $$(python3 --version 2>&1). Say: make PYTHON=/path/to/python3.12" >&2; exit 1; }; \
	echo "setting up $(VENV) with $$($$found --version) (once)"; \
	[ -x $(BIN)/python ] || $$found -m venv $(VENV); \
	awk '/^[a-zA-Z0-9]/{on=/^uv==/} on' requirements.lock > $(VENV)/uv.txt; \
	[ -x $(BIN)/uv ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.txt; \
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes requirements.lock; \
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .; \
	$(BIN)/python -c 'import sysconfig; open(sysconfig.get_path("purelib") + "/zz_bentoflow.pth", "w").write("import importlib.util as u; u.find_spec(\"flows\") and __import__(\"flows.environment\").environment.apply()\n")'; \
	touch $@
