# Each target does its own set-up: Python 3.11 to 3.13 and make are all that is needed.
PYTHON ?= python3
ROOT ?= data
SEED ?= 0
FAMILY ?= unicoder-vl

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# One fast installer, itself pinned; it reads requirements.txt as pip would.
UV := uv==0.13.8

# Tests run in as many lanes as there are cores, a file on one lane: what a file shares is made once.
LANES ?= auto
PYTEST := $(BIN)/python -m pytest --numprocesses $(LANES) --dist loadfile --no-loadscope-reorder --durations 20

.PHONY: help setup demo quick test soak check bench lock clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv and install the pinned requirements

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python 3.11 to 3.13 is needed, {sys.executable} is {v[0]}.{v[1]}; run: make $(MAKECMDGOALS) PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(UV)
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --requirement requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $(READY)

demo: $(READY) ## the whole path on a small world of its own, in minutes (ROOT=data SEED=0 FAMILY=uniter)
	@$(BIN)/unicoder-vl demo --root $(ROOT) --seed $(SEED) --family $(FAMILY)

quick: $(READY) ## after every edit: the tests that take no time
	$(PYTEST) -m "not slow and not soak" tests

test: $(READY) ## all tests but the long loops
	$(PYTEST) -m "not soak" tests

soak: $(READY) ## before a release: the long loops of kills and outages
	$(PYTEST) -m soak tests

check: $(READY) ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY) ## speed and size, as ratios against peers in the same run
	$(BIN)/python -m tests.bench

lock: $(READY) ## resolve requirements.txt again, for every supported Python
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --no-emit-index-url --no-header \
		--no-emit-package unicoder-vl --output-file requirements.txt pyproject.toml

clean: ## remove .venv and caches; data stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
