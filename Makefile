# Two commands on a fresh clone do everything: `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One torch thread: two on a busy two-core machine can be several times slower.
RUN := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: setup quickstart test test-slow lint style types format bench real clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(STAMP)

# The whole pipeline on the bundled base model and tasks; the results lie in quickstart/report.
quickstart: setup
	$(RUN) $(BIN)/tclora quickstart --overwrite

# The suite, in under ten minutes on two cores.
test: setup
	$(RUN) $(BIN)/python -m pytest -q -n 2 -m "not slow"

test-slow: setup
	$(RUN) $(BIN)/python -m pytest -q -m slow

lint: style types

style: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# pyright fetches its engine from the npm registry on first use.
types: setup
	$(BIN)/pyright

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(RUN) $(BIN)/python benchmarks/cp_vs_tensorly.py

# The run on real input whose report is kept under docs/results (about half an hour on two cores).
real: setup
	$(RUN) $(BIN)/tclora run examples/real.yaml
	$(RUN) $(BIN)/tclora run examples/real_tinystories.yaml

clean:
	rm -rf $(VENV) quickstart runs .pytest_cache .ruff_cache .hypothesis
