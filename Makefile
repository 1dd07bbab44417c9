# make setup | demo | test | check | docs | lock | test-slow | rehearsal | load
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test check docs lock test-slow rehearsal load

setup: $(STAMP)

$(STAMP): pyproject.toml requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $(STAMP)

demo: setup
	$(BIN)/derm-ray demo --out demo

check: setup docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site, in build/site. Strict: a broken link, anchor or reference fails. The variable silences an advertisement.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# Pins every package by its hash; what is pinned stays, unless FLAGS="--upgrade" or FLAGS="--upgrade-package NAME".
LOCK := uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-annotate --quiet \
	--custom-compile-command "make lock"
lock: setup
	$(BIN)/$(LOCK) --extra audit --extra mlflow --extra openvino --extra tune --group dev --output-file requirements-dev.txt $(FLAGS)
	$(BIN)/$(LOCK) --extra audit --extra mlflow --extra tune --constraint requirements-dev.txt --output-file requirements.txt $(FLAGS)

# Two files at a time, those that take longest first (tests/conftest.py). Fails below the coverage in pyproject.toml.
test: check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --cov

test-slow: setup
	$(BIN)/pytest -m slow

# docs/start/cluster.md typed on machines of their own (network namespaces, so as root), and what lost ones cost; up to an hour.
rehearsal: setup
	$(BIN)/pytest -m slow tests/rehearsal -rP

# The endpoint under load: half an hour or more; goes on where it was stopped.
load: setup
	$(BIN)/python -m tests.load build/load
