# Two commands matter to a newcomer: `make demo` and `make test`. Each sets up all it needs in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-fast torture check format clean

demo: $(STAMP)  ## cluster a folder of real photographs with the offline encoder, write a report
	$(BIN)/python -m dxmc_core.demo runs/demo-images
	$(BIN)/dxmc run --config configs/demo.yaml

test: $(STAMP)  ## the whole suite: fast tests first, then Ray and browser suites, then hosts out of namespaces
	$(BIN)/python -m pytest -m "not ray and not browser and not cluster"
	$(BIN)/python -m pytest -m "ray or browser"
	$(BIN)/python -m pytest -m cluster

test-fast: $(STAMP)
	$(BIN)/python -m pytest -m "not ray and not browser and not cluster and not slow"

torture: $(STAMP)  ## the long version of what tests/torture and tests/cluster try to break; TORTURE_SEED=1 for another one
	TORTURE=long $(BIN)/python -m pytest tests/torture tests/cluster

check: $(STAMP)  ## lint, format, types, import rules, installed packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/audit_dependencies.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "dxmc needs Python 3.11 or newer, found $$($(PYTHON) --version); try: make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[offline,dev]'
	@touch $(STAMP)

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
