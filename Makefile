# `make demo` and `make test` set up everything they need in .venv.
PYTHON ?= python3
EXTRAS ?= dev,models
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint types check benchmark peers clean

demo: $(STAMP)
	$(BIN)/tvm-sparse demo

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy sees the package as it is installed: tvm_sparse/ with passes/ and schedules/ inside.
types: $(STAMP)
	rm -rf .typecheck && mkdir -p .typecheck/tvm_sparse
	ln -s $(CURDIR)/tvm_sparse/* $(CURDIR)/passes $(CURDIR)/schedules .typecheck/tvm_sparse/
	$(BIN)/mypy

check: lint types test

benchmark: $(STAMP)
	$(BIN)/python benchmarks/run.py

peers:
	bash benchmarks/peers.sh

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[$(EXTRAS)]"
	touch $@

clean:
	rm -rf $(VENV) .typecheck build dist *.egg-info
