# Each target does its own set-up: a virtual environment in .venv, made again when setup.py changes.
#   make test PYTHON=python3.12 TORCH=torch==2.14.0     another Python, another torch
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= torch==2.13.0
VENV ?= .venv
#: Processes that run tests.
WORKERS ?= 2

BIN := $(VENV)/bin
READY := $(VENV)/.ready

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: test lint demo exam bench gpu format table tensorrt-table onnx-table clean

# A file's tests stay in one process: some share a build pool or a model. One thread each, as there are two.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not exam" --durations=10 -n $(WORKERS) --dist loadfile

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

demo: $(READY)
	$(BIN)/python examples/demo.py

# The long examination: op_db and module_db through torch.compile, model families at real sizes.
exam: $(READY)
	$(BIN)/python -m tests.exam.run
	$(BIN)/python -m tests.exam.values_run
	$(BIN)/python -m pytest -q -m exam

bench: $(READY)
	$(BIN)/python bench/srg_speed.py --json bench/results/srg_speed.json
	$(BIN)/python bench/compile_time.py --json bench/results/compile_time.json
	$(BIN)/python bench/lazy.py --json bench/results/lazy.json
	$(BIN)/python bench/engines.py --json bench/results/engines.json
	$(BIN)/python bench/cost_speed.py --json bench/results/cost_speed.json
	$(BIN)/python bench/links.py --json bench/results/links.json
	$(BIN)/python bench/cost_gpu.py --json bench/results/cost_gpu.json
	$(BIN)/python bench/cost_accuracy.py --json bench/results/cost_accuracy.json
	$(BIN)/python bench/crossover.py --json bench/results/crossover.json
	$(BIN)/python bench/regret.py --json bench/results/regret.json

# What needs a CUDA device: tests, then the engines beside each other. Without one the tests skip and say so.
gpu: $(READY)
	$(BIN)/python -m pytest -q -rs -m gpu tests/gpu
	$(BIN)/python bench/gpu.py

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Writes the generated tables again: README's settings; the operators TensorRT and ONNX take, some minutes' work each.
table: $(READY)
	$(BIN)/python tools/settings_table.py
tensorrt-table: $(READY)
	$(BIN)/python tools/tensorrt_table.py
onnx-table: $(READY)
	$(BIN)/python tools/onnx_table.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# torch first, then everything else with the same pin, so that pip cannot exchange it for another build.
$(READY): setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q $(TORCH) -e '.[dev]'
	touch $(READY)
