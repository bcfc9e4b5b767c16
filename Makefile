# `make demo` and `make test` set up everything they need in .venv.
PYTHON ?= python3
EXTRAS ?= dev,models
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint link-tree types imports docs check benchmark peers clean

demo: $(STAMP)
	$(BIN)/tvm-sparse demo

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The package as it is installed: tvm_sparse/ with passes/ and schedules/ inside. Tools that read
# source files, not an installed package, need it.
link-tree:
	rm -rf .typecheck && mkdir -p .typecheck/tvm_sparse
	ln -s $(CURDIR)/tvm_sparse/* $(CURDIR)/passes $(CURDIR)/schedules .typecheck/tvm_sparse/

types: $(STAMP) link-tree
	$(BIN)/mypy

# The import rule: [tool.importlinter] in pyproject.toml.
imports: $(STAMP) link-tree
	cd .typecheck && $(CURDIR)/$(BIN)/lint-imports --no-logo --no-cache $(CURDIR)/pyproject.toml

# The pages in docs/ and the reference, from the link tree, to docs/_build. Pages of modules that are
# gone would stay.
docs: $(VENV)/.docs link-tree
	$(BIN)/python docs/draw_column.py --check
	rm -rf docs/reference
	$(BIN)/sphinx-build -q -W --keep-going docs docs/_build

check: lint types imports test

benchmark: $(STAMP)
	TVM_SPARSE_PEERS=$(CURDIR)/.peers $(BIN)/python benchmarks/run.py

peers:
	bash benchmarks/peers.sh

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[$(EXTRAS)]"
	touch $@

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) .typecheck build dist *.egg-info docs/_build docs/reference docs/tutorials
