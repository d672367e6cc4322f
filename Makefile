# `make demo` and `make test` set up all that they need in .venv, once.
PYTHON ?= python3
BIN := .venv/bin
SHELL := /bin/sh

.PHONY: demo test room browser lint types check bench kit notebooks pictures clean

demo: .venv/ready
	$(BIN)/imc-kit demo $(if $(INPUT),--input "$(INPUT)") --out $(or $(OUT),demo)

# Bytecode is kept even where the environment says otherwise: the tests start many processes that import the kit.
test: .venv/ready-dev browser
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder $(ARGS)

# The fast tests of one room: make room ROOM=matchers
room: .venv/ready-dev
	$(BIN)/python -m pytest --quiet -m "not slow" tests/$(ROOM) $(ARGS)

# For the tests of the report. Where it cannot be had they say so themselves.
browser:
	@{ command -v chromium && command -v chromedriver; } >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get && apt-get update -qq \
	    && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium chromium-driver; } >/dev/null 2>&1 || true

lint: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready-dev
	$(BIN)/mypy

check: lint types test

bench: .venv/ready-dev
	$(BIN)/python benchmarks/compare.py $(or $(ROOT),../shared/scenes)

# The offline kit for Kaggle: make kit OWNER=you ARGS="--preset aliked"
kit: .venv/ready-dev
	$(BIN)/python build_dataset.py --owner "$(OWNER)" $(ARGS)

# Each notebook from its script; outputs of cells that did not change stay.
notebooks: .venv/ready-dev
	$(BIN)/jupytext --update --to ipynb notebooks/*.py

pictures: .venv/ready-dev
	$(BIN)/python docs/make_pictures.py

clean:
	rm -rf .venv demo build dist

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'imc_kit needs Python 3.11 or newer: make PYTHON=/path/to/python3'; exit 1; }
	@# Debian's Python comes without ensurepip, in a package of its own.
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -qq -y python3-venv; } \
	  || { echo 'Python lacks its venv module: sudo apt-get install python3-venv, then run make again'; exit 1; }
	$(PYTHON) -m venv .venv

.venv/ready: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/ready-dev: .venv/bin/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ .venv/ready
