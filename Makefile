# make demo and make test need Python 3.11+ and a network to the package registry, nothing else; both are quick when repeated.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2

.PHONY: demo test lint bench gpu clean

# One BLAS thread: the products of these small problems gain nothing from a second, and lose much on a busy machine.
demo: .venv/.lab  ## train a learned optimizer, MAML and EWC from embedded data, then write runs/demo/report.html
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/tinymeta demo

test: .venv/.dev  ## the whole test suite
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --ignore tests/gpu $(PYTEST_ARGS)

lint: .venv/.dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy kernels

bench: .venv/.bench  ## the benchmarks, against PyTorch, JAX and autograd in the same run; writes bench/results/
	$(BIN)/python -m bench

gpu:  ## on a machine with a GPU and CuPy: the engine's tests on CuPy arrays, with the Python that is active; needs no network
	$(PYTHON) -m pytest -p no:cacheprovider tests/gpu

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.%: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
