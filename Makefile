# Every target makes its own environment first and costs nothing when nothing changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 2
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= true
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint format bench bench-full clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Regraft needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,dev]'
	@touch $@

$(VENV)/.base: $(VENV)/.installed
	@if $(BIN)/regraft bases minilm --fetch; then touch $@; else echo "minilm could not be fetched: tests that need it are skipped" >&2; fi

setup: $(VENV)/.installed $(VENV)/.base  ## the environment and the base model

demo: $(VENV)/.installed  ## fit, judge, save, serve: the whole line on 2,000 real e-mails (under 3 minutes on 2 cores)
	$(BIN)/regraft demo

# Tiny networks gain nothing from a second thread, but there are many of them: one process a core, one thread each.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

test: setup  ## the tests that every change must pass
	$(TESTS)

test-all: setup  ## these and the slow ones
	$(TESTS) -m ''

lint: $(VENV)/.installed  ## style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed  ## put the style right
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup  ## a look at what the README claims, against peers in environments of their own (under 15 minutes on idle cores)
	$(BIN)/python bench/run.py

bench-full: setup  ## the same with the rounds and sizes of a claim: hours
	$(BIN)/python bench/run.py --full

clean:  ## forget the environment
	rm -rf $(VENV)
