# Everything runs in .venv, made here with Python >= 3.11 and pip. Give another with: make PYTHON=python3.12 demo
PYTHON ?= python3
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable

.DELETE_ON_ERROR:
.PHONY: help demo test check docs bench clean

help:
	@echo "make demo    search the hyperparameters of a small network, on this machine"
	@echo "make test    run all tests"
	@echo "make check   lint, format, types, rooms, documentation"
	@echo "make docs    build the documentation into site/"
	@echo "make bench   measure what benchmarks/RESULTS.md shows"
	@echo "make clean   remove .venv and what tools left behind; studies and runs stay"

demo: .venv/.with-demo
	$(BIN)/hpsearch run studies/digits.yaml
	@echo
	@echo "Where to look next:"
	@echo "  $(BIN)/hpsearch best                          the best configuration"
	@echo "  $(BIN)/hpsearch trials                        every trial, and why it ended"
	@echo "  $(BIN)/hpsearch logs 0                        what trial 0 printed"
	@echo "  $(BIN)/hpsearch run studies/digits.yaml --trials 80   go on: 20 trials more"
	@echo "  trials/digits.py, studies/digits.yaml         copy these two and make them yours"

test: .venv/.with-test
	$(BIN)/python -m pytest

check: .venv/.with-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --quiet tests/test_architecture.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs: .venv/.with-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: .venv/.with-test
	$(BIN)/python benchmarks/help.py
	$(BIN)/python benchmarks/cold_start.py
	$(BIN)/python benchmarks/launch.py
	$(BIN)/python benchmarks/verdict.py
	$(BIN)/python benchmarks/noop.py

clean:
	rm -rf .venv site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*

# The stamps keep an install from being repeated; a changed requirement or version makes them stale.
.venv/bin/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'hpsearch needs Python 3.11 or newer, this is ' + sys.version)"
	$(PYTHON) -m venv .venv

.venv/.with-%: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing hpsearch[$*] into .venv"
	@$(INSTALL) ".[$*]"
	@touch $@
