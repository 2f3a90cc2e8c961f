# Each target does its own set-up: a virtual environment in .venv, made again when setup.py or constraints.txt changes.
# Everything in it has the version of constraints.txt, so that what passes today passes on any day.
#   make test PYTHON=python3.12 TORCH=torch==2.14.0     another Python, another torch
#   make test CONSTRAINTS=                              the newest of everything
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= torch==2.13.0
VENV ?= .venv
CONSTRAINTS ?= -c constraints.txt
#: Installed last, over what is there.
OVER ?=
#: Processes that run tests.
WORKERS ?= 2

BIN := $(VENV)/bin
READY := $(VENV)/.ready

#: A file's tests stay in one process: some share a build pool or a model. One thread each, as there are two. The order
#: is that of tests/conftest.py: dear files first.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Where it is set, each of the tests' hundreds of processes would compile the package's files once more.
unexport PYTHONDONTWRITEBYTECODE

#: Tests of what is called in the engines' libraries.
ENGINE_TESTS := tests/engines/onnx/test_trial.py tests/engines/onnxruntime/test_engine.py tests/engines/openvino/test_engine.py \
	tests/engines/onnx tests/engines/tensorrt tests/backend/test_choice.py

#: The graph and what is decided on it; building, keeping, guarding; a model through torch.compile.
CORE_TESTS := tests/srg tests/passes tests/golden tests/runtime tests/compiling tests/dispatch tests/guard tests/store tests/settings \
	tests/files tests/costmodels tests/backend/test_inference.py tests/backend/test_fallback.py tests/backend/test_options.py

.PHONY: docs test test-fast tests check-format check-rules check-types check-rooms test-engines test-newest test-oldest versions test-version \
	lint demo exam bench gpu format table tensorrt-table onnx-table constraints clean

# Static checks beside the tests: what either finds is told, and either's failure is make's.
test: $(READY)
	$(MAKE) -j5 lint tests

tests: $(READY)
	$(PYTEST) -m "not exam" --durations=10

# For the edit loop: the core, at most three minutes on two cores.
test-fast: $(READY)
	$(PYTEST) -m "not exam and not slow" --ignore-glob="*/test_coverage_*" $(CORE_TESTS)

# The engines' tests on the newest and on the oldest libraries that the extras allow, each in an environment of its own.
# Run both before a bound in setup.py is moved, and before an issue is resolved.
test-newest:
	rm -rf .venv-newest
	$(MAKE) test-engines VENV=.venv-newest CONSTRAINTS=

test-oldest:
	$(MAKE) test-engines VENV=.venv-oldest OVER='-r oldest.txt'

test-engines: $(READY)
	$(BIN)/python -m pip list 2>/dev/null | grep -iE '^(torch|onnx|openvino|tensorrt|numpy|protobuf)' || true
	$(PYTEST) -m "not exam" --durations=5 $(ENGINE_TESTS)

# The tests of backend, engines, passes, saved functions and dispatch on the oldest and on the newest Python and torch that are promised. By hand
# before a release: gigabytes of wheels, half an hour each.
versions:
	$(MAKE) test-version VENV=.venv-3.10 PYTHON=python3.10 TORCH=torch==2.11.0
	$(MAKE) test-version VENV=.venv-3.12 PYTHON=python3.12 TORCH=torch==2.15.0
	$(MAKE) test-version VENV=.venv-3.13 PYTHON=python3.13 TORCH=torch==2.14.1

test-version: $(READY)
	$(PYTEST) -m "not exam" --durations=5 tests/backend tests/engines tests/passes tests/saved tests/dispatch

lint: check-format check-rules check-types check-rooms
check-format: $(READY)
	$(BIN)/ruff format --check .
check-rules: $(READY)
	$(BIN)/ruff check .
check-types: $(READY)
	$(BIN)/mypy
check-rooms: $(READY)
	$(BIN)/lint-imports

# The pages as a site, in build/site.
docs: $(READY)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/site

demo: $(READY)
	$(BIN)/python examples/demo.py

# The long examination: op_db and module_db through torch.compile, model families at real sizes.
exam: $(READY)
	$(BIN)/python -m pip install -q $(CONSTRAINTS) --no-build-isolation $(TORCH) -e '.[serve]'
	$(BIN)/python -m tests.exam.run
	$(BIN)/python -m tests.exam.values_run
	$(BIN)/python -m pytest -q -m exam
	EXAMPLES_TIMES=10 $(BIN)/python -m pytest -q -m hypothesis

bench: $(READY)
	$(BIN)/python -m pip install -q $(CONSTRAINTS) --no-build-isolation $(TORCH) -e '.[bench]'
	$(BIN)/python bench/compiling/srg_speed.py --json bench/results/srg_speed.json
	$(BIN)/python bench/compiling/compile_time.py --json bench/results/compile_time.json
	$(BIN)/python bench/compiling/lazy.py --json bench/results/lazy.json
	$(BIN)/python bench/compiling/first_calls.py --json bench/results/first_calls.json
	$(BIN)/python bench/engines/engines.py --json bench/results/engines.json
	$(BIN)/python bench/engines/generate.py --json bench/results/generate.json
	$(BIN)/python bench/cost/speed.py --json bench/results/cost_speed.json
	$(BIN)/python bench/links/links.py --json bench/results/links.json
	$(BIN)/python bench/cost/gpu.py --json bench/results/cost_gpu.json
	$(BIN)/python bench/cost/accuracy.py --json bench/results/cost_accuracy.json
	$(BIN)/python bench/engines/crossover.py --json bench/results/crossover.json
	$(BIN)/python bench/cost/regret.py --json bench/results/regret.json
	$(BIN)/python bench/engines/weights.py --json bench/results/weights.json
	$(BIN)/python bench/engines/conditions.py --json bench/results/conditions.json
	$(BIN)/python bench/engines/guard.py --json bench/results/guard.json
	$(BIN)/python bench/memory/budget.py --json bench/results/memory_budget.json
	$(BIN)/python bench/memory/packing.py --json bench/results/packing.json
	$(BIN)/python bench/placement/solvers.py --json bench/results/placement.json
	$(BIN)/python bench/placement/latency.py --json bench/results/planning.json
	$(BIN)/python bench/placement/boundary.py --json bench/results/boundary.json
	$(BIN)/python bench/placement/run.py --json bench/results/pipeline.json
	$(BIN)/python bench/placement/run.py --link 200MB/s --json bench/results/pipeline_link.json
	$(BIN)/python bench/placement/regret.py --json bench/results/cuts.json
	$(BIN)/python bench/placement/beside_accelerate.py --json bench/results/accelerate.json
	$(BIN)/python bench/memory/peak.py --json bench/results/memory_peak.json
	$(BIN)/python bench/memory/arena.py --json bench/results/arena.json
	$(BIN)/python bench/memory/order.py --json bench/results/memory_order.json
	$(BIN)/python bench/memory/slices.py --json bench/results/memory_slices.json
	$(BIN)/python bench/memory/training.py --json bench/results/memory_training.json
	$(BIN)/python bench/remote/wire.py --json bench/results/wire.json
	$(BIN)/python bench/remote/calls.py --json bench/results/calls.json
	$(BIN)/python bench/explain/real.py --json bench/results/explain_real.json

# What needs a CUDA device: tests, then the engines beside each other. Without one the tests skip and say so.
gpu: $(READY)
	$(BIN)/python -m pytest -q -rs -m gpu tests/gpu
	$(BIN)/python bench/engines/gpu.py

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Writes what is generated again: tables of the settings (README, docs/settings.md), the report's schema; the operators TensorRT and ONNX take, some minutes' work each.
table: $(READY)
	$(BIN)/python tools/settings_table.py
	$(BIN)/python tools/report_schema.py
	$(BIN)/python tools/example_reports.py
	$(BIN)/python tools/measured_tables.py
tensorrt-table: $(READY)
	$(BIN)/python tools/tensorrt_table.py
onnx-table: $(READY)
	$(BIN)/python tools/onnx_table.py

# Writes constraints.txt anew from what is installed. For newer versions: make test-newest, then
# make constraints VENV=.venv-newest, then make test.
constraints:
	$(BIN)/python tools/constraints.py

clean:
	rm -rf $(VENV) .venv-newest .venv-oldest .venv-3.10 .venv-3.12 .venv-3.13 build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# torch first, then everything else with the same pin, so that pip cannot exchange it for another build.
# What builds packages is installed first, and is then not fetched anew by each build.
$(READY): setup.py constraints.txt oldest.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q $(CONSTRAINTS) 'setuptools>=77,<82'
	$(BIN)/python -m pip install -q $(CONSTRAINTS) $(TORCH)
	$(BIN)/python -m pip install -q $(CONSTRAINTS) --no-build-isolation $(TORCH) -e '.[dev]'
	$(if $(OVER),$(BIN)/python -m pip install -q $(TORCH) $(OVER))
	touch $(READY)
