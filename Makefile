# Everything runs in .venv, made here with Python >= 3.11 and pip. Others: make PYTHON=python3.12 VENV=/tmp/venv demo
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --quiet --constraint constraints.txt --editable

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test chaos check docs bench clean

help:
	@echo "make demo    search the hyperparameters of a small network, on this machine"
	@echo "make test    run all tests"
	@echo "make chaos   kill, lock, cut off and fill up, twenty seeds a fault: about half an hour"
	@echo "make check   lint, format, types, rooms, documentation"
	@echo "make docs    build the documentation into site/"
	@echo "make bench   measure what benchmarks/RESULTS.md shows"
	@echo "make clean   remove $(VENV) and what tools left behind; studies and runs stay"

demo: $(VENV)/.with-demo
	$(BIN)/hpsearch run studies/digits.yaml
	@echo
	@echo "Where to look next: source $(BIN)/activate, then any of the commands above."
	@echo "Go on with 20 trials more: hpsearch run studies/digits.yaml --trials 80"
	@echo "Then copy studies/digits.yaml and trials/digits.py and make them yours: docs/your-objective.md"

test: $(VENV)/.with-test
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4

chaos: $(VENV)/.with-test
	$(BIN)/python -m pytest --numprocesses 4 -m soak tests/faults

check: $(VENV)/.with-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --quiet tests/test_architecture.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs: $(VENV)/.with-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.with-test
	$(BIN)/python benchmarks/help.py
	$(BIN)/python benchmarks/cold_start.py
	$(BIN)/python benchmarks/launch.py
	$(BIN)/python benchmarks/verdict.py
	$(BIN)/python benchmarks/noop.py
	$(BIN)/python benchmarks/storage.py
	$(BIN)/python benchmarks/digits.py
	$(BIN)/python benchmarks/gang.py

clean:
	rm -rf $(VENV) site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*

# The stamps keep an install from being repeated; a changed requirement or version makes them stale.
$(BIN)/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'hpsearch needs Python 3.11 or newer, this is ' + sys.version)"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.with-%: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing hpsearch[$*] into $(VENV): torch is large, this takes minutes the first time"
	@$(INSTALL) ".[$*]"
	@touch $@
