# `make demo` and `make test` set everything up by themselves. PYTHON picks the interpreter: make test PYTHON=python3.12

PYTHON ?= python3

BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: demo test lint man bench soak clean

demo: $(READY)
	@$(BIN)/spearctl demo

test: $(READY)
	@$(BIN)/pytest

lint: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

# Manual pages and completion files, from the commands themselves.
man: $(READY)
	@$(BIN)/python -m spearctl.manual .

bench: $(READY)
	@$(BIN)/python -m tests.benchmarks $(ARGS)

soak: $(READY)
	@$(BIN)/pytest -m soak

# Removes all that make made, the environment included.
clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and on its own: left to choose, pip may take a newer one with gigabytes of GPU packages.
# The stamp comes last, so that a set-up which was interrupted is done again.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'error: $(PYTHON) is not Python 3.11 or newer' >&2; \
		echo 'hint: name one that is, such as: make $(MAKECMDGOALS) PYTHON=python3.12' >&2; exit 1; }
	@echo 'set-up 1/3: the environment .venv'
	@$(PYTHON) -m venv .venv || { \
		echo 'hint: on Debian and Ubuntu, apt-get install python3-venv' >&2; exit 1; }
	@echo 'set-up 2/3: torch (large, takes minutes)'
	@$(PIP) install torch==2.13.0
	@echo 'set-up 3/3: spearctl and what it needs'
	@$(PIP) install --editable '.[dev]'
	@touch $@
