# Two commands matter to a newcomer: `make demo` and `make test`. Each sets up all it needs in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# `make demo CPU=1` on a machine without a GPU: FAISS without CUDA. See docs/INSTALL.md for PyTorch.
PIPELINE := $(if $(CPU),pipeline-cpu,pipeline)
CONSTRAINTS := $(if $(CPU),constraints-cpu.txt,constraints.txt)
# What the demo needs, and what the tests need beyond that.
RUN := $(VENV)/.installed-$(PIPELINE)
DEV := $(VENV)/.installed-$(PIPELINE)-dev
# npm writes this file last.
TYPESCRIPT := scripts/typescript/node_modules/.package-lock.json
# Tests that need no cluster: as many at a time as there are cores, each on one of them.
FAST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

.PHONY: demo test test-fast torture check format clean

demo: $(RUN)  ## cluster a folder of real photographs with the offline encoder, write a report
	$(BIN)/python -m dxmc_core.demo runs/demo-images
	$(BIN)/dxmc run --config configs/demo.yaml

test: $(DEV)  ## the whole suite: fast tests and the browser's first, then those on Ray, then hosts out of namespaces
	$(FAST) -m "not ray and not cluster"
	$(BIN)/python -m pytest -m ray
	$(BIN)/python -m pytest -m cluster

test-fast: $(DEV)
	$(FAST) -m "not ray and not browser and not cluster and not slow"

torture: $(DEV)  ## the long version of what tests/torture and tests/cluster try to break; TORTURE_SEED=1 for another one
	TORTURE=long $(BIN)/python -m pytest tests/torture tests/cluster

check: $(DEV) $(TYPESCRIPT)  ## lint, format, types of Python and JavaScript, import rules, installed packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=benchmarks $(BIN)/mypy benchmarks/*.py
	$(BIN)/node scripts/typescript/node_modules/typescript/bin/tsc --project scripts/typescript
	$(BIN)/lint-imports
	$(BIN)/python scripts/audit_dependencies.py

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The pip that comes with Python 3.11 takes twice as long to choose among versions.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "dxmc needs Python 3.11 or newer, found $$($(PYTHON) --version); try: make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'pip>=25'

$(RUN): pyproject.toml constraints.txt constraints-cpu.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[$(PIPELINE),offline]'
	@touch $(RUN)

$(DEV): pyproject.toml constraints.txt constraints-cpu.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[$(PIPELINE),offline,dev]'
	@touch $(RUN) $(DEV)

$(TYPESCRIPT): scripts/typescript/package.json scripts/typescript/package-lock.json | $(DEV)
	$(BIN)/npm ci --loglevel error --prefix scripts/typescript

clean:
	rm -rf $(VENV) scripts/typescript/node_modules runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
