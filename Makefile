# make demo and make test need Python 3.11+ and a network to the package registry, nothing else; both are quick when repeated.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2

.PHONY: demo test peers lint bench gpu clean

# One BLAS thread: the products of these small problems gain nothing from a second, and lose much on a busy machine.
demo: .venv/.lab  ## train a learned optimizer, MAML and EWC from embedded data, then write runs/demo/report.html
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/tinymeta demo

test: .venv/.dev  ## the whole test suite; what is compared with PyTorch, JAX and optax is skipped where these are not installed
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --ignore tests/gpu $(PYTEST_ARGS)

PEER_TESTS = $(shell grep -lE 'importorskip."(torch|jax|optax)"' -r tests --include='*.py') tests/test_docs.py
peers: .venv/.peers  ## the tests beside PyTorch, JAX and optax, which it installs
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) $(PEER_TESTS) $(PYTEST_ARGS)

lint: .venv/.dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy kernels

# Some peers' own requirements would bring another torch.
.venv/.bench: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[bench]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		backpack-for-pytorch einops unfoldNd higher torchopt optree graphviz
	@touch $@

bench: .venv/.bench  ## the benchmarks, against PyTorch, JAX and autograd in the same run; writes bench/results/
	$(BIN)/python -m bench

# The package is put together in build/gpu, so that the active Python needs no installation of it, and no network. It needs NumPy,
# CuPy, pytest and hypothesis; with Numba its twins are tested too; the benchmark needs PyTorch and JAX.
gpu:  ## on a machine with a GPU: the tests on CuPy arrays and of the kernels, then the GPU benchmark; writes bench/results/gpu*.json
	rm -rf build/gpu && mkdir -p build/gpu
	cp -r tinymeta bench build/gpu/ && cp -r kernels build/gpu/tinymeta/kernels
	PYTHONSAFEPATH=1 TINYMETA_TEST_GPU=1 PYTHONPATH=build/gpu:tests $(PYTHON) -m pytest --noconftest -p no:cacheprovider -o filterwarnings=default \
		tests/gpu tests/kernels_gpu/test_*_gpu_twins.py $(PYTEST_ARGS)
	PYTHONSAFEPATH=1 PYTHONPATH=build/gpu $(PYTHON) -m bench.gpu
	cp build/gpu/bench/results/gpu*.json bench/results/

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.%: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
