# One virtual environment from the lock, made once; every target below uses it and nothing else.
PYTHON ?= python3.11
CORES ?= $(shell nproc)
CONFIGS ?= config/quick.yaml
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup cells bench test test-all faults speed lint lock licences clean

help:           ## list the targets
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: .venv/.ready  ## make .venv from requirements.lock and install dgd-bench into it

# The stamps are written last: a set-up that was interrupted starts over, a finished one is never repeated.
.venv/.locked: requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: $(PYTHON) is not on the PATH (set PYTHON=...)"; exit 1; }
	@$(PYTHON) -m venv --clear .venv || { echo "python's venv module is needed (Debian: python3.11-venv)"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
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

lock:         ## resolve pyproject.toml again into requirements.lock (needs uv)
	uv pip compile pyproject.toml --extra pipeline --extra logs --extra dev --extra docs --generate-hashes --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 --no-emit-index-url --no-header \
	  --constraint constraints.txt --output-file requirements.lock

# In an environment of their own, so that what lists the packages is not one of them.
licences: setup  ## list what .venv and the image hold: docs/licences.md, and build/sbom.json (CycloneDX)
	$(PYTHON) -m venv --clear build/licences
	build/licences/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0 pip-licenses==5.5.5
	build/licences/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file build/sbom.json $(BIN)/python
	{ sed '/^|/,$$d' docs/licences.md; build/licences/bin/pip-licenses --python $(BIN)/python --with-urls --with-system --format markdown \
	  --ignore-packages dgd-bench pip; } > build/licences.md && mv build/licences.md docs/licences.md

clean:        ## remove the environment and caches, keep data and results
	rm -rf .venv .snakemake build *.egg-info .pytest_cache .ruff_cache
