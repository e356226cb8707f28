# make generate PROMPT="a large red ball rolls right on a gray ground" [ARGS="out=ball.mp4 seed=1"]
# make test · make test-all · make lint · make wheel · make clean
#
# Each target installs what it needs into .venv, once. On Linux PyPI's torch brings CUDA along, some gigabytes;
# a machine without an NVIDIA GPU needs only the CPU build:
#   make generate PROMPT="…" PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON   ?= python3
VENV     ?= .venv
PIP_ARGS ?=
ARGS     ?=
BIN      := $(VENV)/bin
INPUTS   := setup.cfg pyproject.toml constraints.txt

# The prompt reaches the shell through the environment, exactly as it was typed: quotes, dollars and all.
override PROMPT := $(value PROMPT)
export PROMPT

.PHONY: generate test test-all lint wheel clean
.DELETE_ON_ERROR:

generate: $(VENV)/.installed
	@$(BIN)/videodit generate $${PROMPT:+"$$PROMPT"} $(ARGS)

# A file's tests stay in one process, which makes what they share once.
test: lint
	$(BIN)/python -m pytest -q --numprocesses logical --maxprocesses 4 --dist loadfile

# Also what takes minutes, one after the other: processes that are killed, four of them, a browser.
test-all: test
	$(BIN)/python -m pytest -q -m slow

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .

# Built in an empty folder: a stale build/ would ship files that the tree no longer has.
wheel: $(VENV)/.installed
	rm -rf build
	$(BIN)/python -m pip wheel $(PIP_ARGS) --quiet --no-deps --wheel-dir dist .
	rm -rf build
	@ls dist/*.whl

$(VENV)/.installed: $(INPUTS)
	@echo "installing into $(VENV): a minute or more, about 2 GB" >&2
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_ARGS) --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install $(PIP_ARGS) --quiet -c constraints.txt -e ".[test]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
