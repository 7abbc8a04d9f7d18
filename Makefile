# `make demo` and `make test` do everything on a fresh machine; both make .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TL3 := .venv-tl3
HOOKED := tests/model tests/measure/test_heads.py tests/measure/test_patching.py tests/graph/test_ablation.py tests/selective/test_profile.py tests/test_front.py

.PHONY: demo notebooks test test-kernels test-tl3 test-newest newest trials bench bench-size bench-workers plants docs lint format clean

demo: $(VENV)/.ready
	$(BIN)/emotion-circuits demo --out runs/demo

# The notebooks, in a browser; LAB takes further options of JupyterLab, such as --no-browser.
notebooks: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[notebooks]'
	$(BIN)/jupyter lab $(LAB) notebooks

# A worker per core, four at most: each loads torch and the models anew.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(4, os.cpu_count() or 2))')
TESTED := -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --jaxtyping-packages=circuits,beartype.beartype
THREADS ?= 1
PYTEST := OMP_NUM_THREADS=$(THREADS) OMP_WAIT_POLICY=PASSIVE $(BIN)/python $(TESTED)
ON_TL3 := OMP_NUM_THREADS=$(THREADS) OMP_WAIT_POLICY=PASSIVE $(TL3)/bin/python $(TESTED)

test: $(VENV)/.ready
	$(PYTEST)

# What computes, once more with the plain kernels of torch, which add in another order than those of
# a processor with vectors. The whole suite runs so with `ATEN_CPU_CAPABILITY=default make test`.
NUMERIC := tests/measure tests/model tests/graph tests/selective tests/families tests/steering tests/published
test-kernels: $(VENV)/.ready
	ATEN_CPU_CAPABILITY=default $(PYTEST) -m "not slow" $(NUMERIC)

# The same on TransformerLens 3.9: its HookedTransformer beside its bridge, then the model-facing
# tests on HookedTransformers, in under three minutes on two cores.
test-tl3: $(TL3)/.ready
	$(ON_TL3) tests/tl3
	$(ON_TL3) --model-kind hooked -m "not slow" $(HOOKED)
	$(ON_TL3) --model-kind hooked -k first_notebook tests/test_front.py

# The wheel with the newest versions of all that pip installs beside it, in an environment of its own
# that is removed again; needs the network. constraints-newest.txt lists what has passed.
test-newest: $(VENV)/.ready
	$(BIN)/python tests/newest.py

# The same, and the list written anew if all passes.
newest: $(VENV)/.ready
	$(BIN)/python tests/newest.py --write

# Ratios to the published procedures, TransformerLens and nnsight, in about five minutes on two cores.
bench: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	OMP_NUM_THREADS=2 TQDM_DISABLE=1 $(BIN)/python tests/benchmarks/bench.py

# What each method recovers of twenty planted models, in about two minutes on two cores.
plants: $(VENV)/.ready
	OMP_NUM_THREADS=2 PYTHONPATH=tests $(BIN)/python -m planted.plant_recovery --out docs/recovery.md

# The tests that stand in the table of trials, and the table.
trials: $(VENV)/.ready $(TL3)/.ready
	$(PYTEST) -m trial --trials=docs/trials.json
	$(ON_TL3) tests/tl3 -m trial --trials=docs/trials.json
	$(BIN)/python tests/trials_table.py

# Memory at the size of Llama-3.2-3B, with random weights; needs 7 GB of disk and 10 GB of memory.
bench-size: $(VENV)/.ready
	TQDM_DISABLE=1 $(BIN)/python tests/benchmarks/bench_size.py

# One process against 1, 2 and 4 Ray workers, one thread each, in a few minutes on four free cores.
bench-workers: $(VENV)/.ready
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python tests/benchmarks/bench_workers.py

# The documentation site, in site/; a warning is an error.
docs: $(VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch first and by its exact version, so that no CUDA build is drawn in where a CPU build will do.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(shell grep -h '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(TL3)/.ready: pyproject.toml constraints-tl3.txt
	test -x $(TL3)/bin/python || $(PYTHON) -m venv $(TL3)
	$(TL3)/bin/python -m pip install --quiet --constraint constraints-tl3.txt $(shell grep -h '^torch==' constraints-tl3.txt)
	$(TL3)/bin/python -m pip install --quiet --constraint constraints-tl3.txt --editable '.[tl3]'
	touch $@

clean:
	rm -rf $(VENV) $(TL3) runs dist site .pytest_cache .ruff_cache .hypothesis
