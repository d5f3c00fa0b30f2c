# Two commands matter on a fresh machine: `make demo` and `make test`. Everything stays inside this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.ready

.PHONY: demo test torture check setup format bench clean

setup: $(SETUP)

$(SETUP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-cache-dir -c constraints.txt -e '.[dev]'
	touch $(SETUP)

demo: setup  ## train on portraits drawn by rule for some minutes, then open a gallery
	$(BIN)/ganvas train avatars --minutes 8
	$(BIN)/ganvas gallery runs/avatars --open

test: setup  ## all tests
	$(BIN)/python -m pytest -n 2

torture: setup  ## the long forms of the tests: thousands of kills, faults and flipped bits, a line for each count
	$(BIN)/python -m pytest -m torture -s

check: setup  ## linters and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## every claim of speed, measured again; run it alone on the machine
	$(BIN)/python benchmarks/data_throughput.py
	$(BIN)/python benchmarks/train_throughput.py
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/overhead.py

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
