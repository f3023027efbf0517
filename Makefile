# One virtual environment from the lock, made once; every target below uses it and nothing else.
PYTHON ?= python3.11
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
CONFIGS ?= config/quick.yaml
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup cells bench test test-all faults speed lint docs lock licences clean

help:           ## list the targets
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: .venv/.ready  ## make .venv from requirements.lock and install dgd-bench into it

# The stamps are written last: a set-up that was interrupted starts over, a finished one is never repeated.
.venv/.locked: requirements.lock
	@[ "$$(uname -s -m)" = "Linux x86_64" ] || { echo "requirements.lock is for Linux on x86-64, and this is $$(uname -s -m):" \
	  "docs/environments.md says how to install without it, or use Docker"; exit 1; }
	@found=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); [ "$$found" = 3.11 ] || { \
	  echo "Python 3.11 is needed, as requirements.lock is for it, and $(PYTHON) is $${found:-missing}: install it" \
	  "(Debian, Ubuntu: apt install python3.11 python3.11-venv; Fedora: dnf install python3.11; anywhere: uv python install 3.11," \
	  "pyenv install 3.11 or conda create -n py311 python=3.11), then make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv or no ensurepip: install it (Debian, Ubuntu: apt install python3.11-venv)"; exit 1; }
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock || { \
	  echo "requirements.lock could not be installed: pip needs a package index in reach (PIP_INDEX_URL names another one)" \
	  "and 7 GB on this disk"; exit 1; }
	@touch $@

.venv/.ready: .venv/.locked pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Registries are not asked, so it takes a second.
cells: setup  ## write dvc.yaml, what DVC keeps of the benchmarks in CONFIGS
	@DGD_NETWORKS=no python -m pipeline.cells $(CONFIGS)

bench: setup  ## train the default benchmark (config/quick.yaml) and print its table
	snakemake --cores $(CORES) --quiet rules host
	@python -m pipeline.show results/quick

test: setup   ## run the tests, two at a time (those marked slow or faults are left out)
	OMP_NUM_THREADS=1 python -m pytest -m "not slow and not faults" -n 2 --dist worksteal

test-all: setup  ## run all tests but those marked faults
	python -m pytest -m "not faults"

faults: setup ## run the tests of kills, full disks, damaged files: hours
	OMP_NUM_THREADS=1 python -m pytest -m faults

speed: setup  ## measure speed on this machine and write the figures into speed/README.md
	python -m speed.measure
	python -m speed.report

lint: setup   ## ruff, snakefmt, the contract on imports, snakemake --lint
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile pipeline/rules
	lint-imports
	snakemake --lint

docs: setup   ## build the documentation into build/docs; a warning, such as a link to nowhere, is an error
	python -m sphinx --fail-on-warning --keep-going --quiet --fresh-env -c docs . build/docs

# requirements.lock is the development environment. The image takes its versions from it, in two parts: torch's CUDA build with all
# that it needs, and the other packages of a run, which are the same without CUDA.
RESOLVE := uv pip compile --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-emit-index-url --no-header
CUDA := (torch|torchvision|triton|nvidia-[^=]+|cuda-[^=]+)

lock:         ## resolve pyproject.toml again into requirements.lock and the image's two parts of it (needs uv)
	$(RESOLVE) pyproject.toml --extra pipeline --extra logs --extra dev --extra docs --constraint constraints.txt \
	  --output-file requirements.lock
	printf 'torch\ntorchvision\n' | $(RESOLVE) - --constraint requirements.lock --output-file requirements-cuda.lock
	$(RESOLVE) pyproject.toml --extra pipeline --extra logs --constraint requirements.lock --output-file requirements-run.lock \
	  $$(sed -nE 's/^$(CUDA)==.*/--no-emit-package \1/p' requirements-cuda.lock)

# In an environment of their own, so that what lists the packages is not one of them.
licences: setup  ## list what .venv and the image hold: docs/licences.md, and build/sbom.json (CycloneDX)
	$(PYTHON) -m venv --clear build/licences
	build/licences/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0 pip-licenses==5.5.5
	build/licences/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file build/sbom.json $(BIN)/python
	{ sed '/^|/,$$d' docs/licences.md; build/licences/bin/pip-licenses --python $(BIN)/python --with-urls --with-system --format markdown \
	  --ignore-packages dgd-bench pip; } > build/licences.md && mv build/licences.md docs/licences.md

clean:        ## remove the environment and caches, keep data and results
	rm -rf .venv .snakemake build *.egg-info .pytest_cache .ruff_cache
