# A fresh clone needs nothing but make and a Python of 3.11 or later:
#
#   make demo     chat with a real, small model in the browser (PORT=8123 picks the port)
#   make test     lint, types and the test suite, but for what takes long (make test-slow)
#
# Everything lives in $(VENV); a second call starts at once.

PORT ?= 8000
VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# Most tests wait for servers, so two run at a time. A file stays on one worker: it has its servers.
# The acceptance tests come first, so that what is left at the end is short.
PYTEST_ARGS ?= -q -n 2 --dist loadfile --no-loadscope-reorder

CONSTRAINTS := .ci/constraints.txt
BIN := $(VENV)/bin
CLIENTS := tests/clients/node_modules/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --constraint $(CONSTRAINTS)
say = @printf '\033[1m==> %s\033[0m\n'

.PHONY: help demo test test-slow lint types clients clients-table bench screenshots clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo    the demo at http://127.0.0.1:$(PORT)/ with the embedded model (PORT=8123 picks the port)'
	@echo 'make test    ruff, mypy and the tests'
	@echo 'make test-slow  the tests that take long'
	@echo 'make lint    ruff and mypy only'
	@echo 'make clients  the JavaScript clients that the tests run, where Node is there'
	@echo 'make clients-table  what these clients see, into docs/wire-formats.md'
	@echo 'make bench   our figures and those of the peers, into docs/performance.md'
	@echo 'make screenshots  every state of the chat page, as pictures in screenshots/'
	@echo 'make clean   remove what these commands made'

demo: $(VENV)/.demo
	@exec env PORT=$(PORT) $(BIN)/python manage.py demo

test: lint clients
	$(say) 'Weights of the embedded model'
	@$(BIN)/python -c 'from project.embedded.download import model_file; print(model_file(print))'
	$(say) 'Tests'
	@$(BIN)/python -m pytest $(PYTEST_ARGS) -m 'not slow'

test-slow: $(VENV)/.test clients
	$(say) 'Slow tests'
	@$(BIN)/python -m pytest $(PYTEST_ARGS) -m slow

lint: $(VENV)/.test
	$(say) 'Lint and types'
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# Without Node their tests are skipped, as they are without Chromium.
clients:
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory $(CLIENTS); fi

clients-table: $(VENV)/.test clients
	$(say) 'What each client sees of each ending, into docs/wire-formats.md'
	@$(BIN)/python -m tests.acceptance.clients --write

bench: $(VENV)/.test
	$(say) 'Benchmark (some minutes)'
	@$(BIN)/python -m tests.bench.run --write-docs

screenshots: $(VENV)/.test
	$(say) 'Pictures of the chat page, into screenshots/'
	@$(BIN)/python -m tests.acceptance.screenshots screenshots

clean:
	rm -rf $(VENV) .cache build dist screenshots tests/bench/build tests/clients/node_modules *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: made again when the pins or the requirements change.

$(VENV)/bin/python:
	@test -n '$(PYTHON)' || { echo 'No Python of 3.11 or later on PATH: make … PYTHON=/path/to/python' >&2; exit 1; }
	$(say) "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { echo 'venv failed; on Debian: apt install python3-venv' >&2; exit 1; }

$(VENV)/.base: $(CONSTRAINTS) | $(VENV)/bin/python
	$(say) 'Installing pip and setuptools'
	@$(INSTALL) --quiet pip setuptools
	@touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.base
	$(say) 'Installing the demo and its requirements'
	@$(INSTALL) --no-build-isolation --editable '.[demo]'
	@touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.base
	$(say) 'Installing what the tests need'
	@$(INSTALL) --no-build-isolation --editable '.[test]'
	@touch $(VENV)/.demo $@

$(CLIENTS): tests/clients/package-lock.json
	$(say) 'Installing the JavaScript clients'
	@cd tests/clients && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@
