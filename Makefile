# make book | make test | make test-cluster | make bench | make check-book | make check-pages | make setup | make lint | make format | make clean      (make help lists them)
# Needs Python 3.11 with its venv module, and make. No GPU, no key, no data.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= $(or $(shell command -v python3.11),$(shell command -v python3))
VENV ?= .venv
MIRROR ?=
DATASET ?= starter
DATA ?=
MODEL ?=
OUT ?=
SHARE ?=
THREADS ?=
# Set-up counts as done for exactly these files in this folder: nothing is installed again until one of them changes.
KEY := $(shell { pwd; cat requirements*.lock pyproject.toml; } | sha256sum | cut -c1-16)
SETUP := $(VENV)/.set-up-$(KEY)
BIN := $(VENV)/bin

# $(call step,what it does,command): says what it does and how long it took.
define step
@printf '\n==> %s\n' "$(1)"; start=$$SECONDS; $(2) && printf '==> done in %d s\n' $$((SECONDS - start))
endef

.PHONY: help setup book check-book check-pages test test-cluster bench fuzz lint format clean
help:
	@echo "make book    set up, train and evaluate on the embedded dataset in the notebooks, build the HTML book   about 6 minutes the first time"
	@echo "make test    set up, lint, types, all tests with the notebooks (MIRROR=DIR: also those on the paper's data)   about 10 minutes the first time"
	@echo "make test-cluster  the workflow on a Slurm of this machine alone (apt install munge slurm-wlm), with a job killed   about 3 minutes"
	@echo "make bench   times training and decoding against the plain reference and records it   8 to 15 minutes"
	@echo "             (DATASET=lcs6 DATA=DIR MODEL=results/lcs6/nesf/cpu/seed-0 OUT=results/benchmarks/NAME THREADS=2: on other data, in that folder)"
	@echo "make fuzz    damages structure files, models and records, kills trainings, fills the disk, and counts what goes wrong   about 5 minutes"
	@echo "             (SHARE=0.1 for a tenth of it, OUT=DIR for the folder of the record)"
	@echo "make check-book  the book, then whether its pages are complete (part of continuous integration)   1 minute more"
	@echo "make check-pages  these, then all pages in Chromium at two widths and in both themes, if it is installed   5 minutes more"
	@echo "make setup   only the virtual environment $(VENV)   about 3 minutes"
	@echo "make lint    formatter, linter and type checker     under 1 minute"
	@echo "make clean   remove the book and the notebook cache; $(VENV) stays"

setup: $(SETUP)
$(SETUP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Python 3.11 is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1): make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3.11-venv is missing: apt install python3.11-venv"; rm -rf $(VENV); exit 1; }
	$(call step,setting up $(VENV) from requirements.lock (2 to 5 minutes),$(MAKE) -s install)
	@rm -f $(VENV)/.set-up-* && touch $@

.PHONY: install
install:
	@if command -v uv > /dev/null; then \
	  export UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}"; \
	  uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock && uv pip install --quiet --python $(BIN)/python -r requirements-torch.lock && uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .; \
	else \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock && $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-torch.lock && $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .; \
	fi

# A page is executed again when what it reads has changed (nesf_studies/reads.py). One thread, unless the caller says otherwise: two wait for each other as soon as something else runs.
book: setup
	$(call step,building the book: executes the notebooks and trains for one minute (3 to 8 minutes; seconds when nothing changed),OMP_NUM_THREADS="$${OMP_NUM_THREADS:-1}" PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/jupyter-book build -W --keep-going book/)
	@echo "==> open book/_build/html/index.html"

check-book: book
	$(call step,pages of the book,PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -q --built-book tests/test_book.py)

check-pages: check-book
	$(call step,pages in a browser at two widths and in both themes (2 to 5 minutes),$(BIN)/python scripts/check_pages.py --report $(or $(REPORT),book/_build/pages.json))

lint: setup
	$(call step,formatter and linter,$(BIN)/ruff format --check . && $(BIN)/ruff check .)
	$(call step,types,$(BIN)/mypy)

test: lint
	$(call step,tests and notebooks (5 to 10 minutes),OMP_NUM_THREADS=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --durations 8 --nbval-lax tests notebooks $(if $(MIRROR),--mirror "$(MIRROR)"))

test-cluster: setup
	$(call step,the workflow on a Slurm of this machine (about 3 minutes),PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/single_node_slurm.py $(if $(MIRROR),--mirror "$(MIRROR)") $(if $(OUT),--out "$(OUT)"))

bench: setup
	$(call step,benchmarks (8 to 15 minutes),PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m benchmarks --dataset "$(DATASET)" $(if $(DATA),--data "$(DATA)") $(if $(MODEL),--model "$(MODEL)") $(if $(OUT),--out "$(OUT)") $(if $(THREADS),--threads "$(THREADS)"))

fuzz: setup
	$(call step,bad input and faults (about 5 minutes),PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m robustness $(if $(SHARE),--share "$(SHARE)") $(if $(OUT),--out "$(OUT)"))

format: setup
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .
	@$(BIN)/jupytext --quiet --sync notebooks/*.py

clean:
	rm -rf book/_build .jupyter_cache .pytest_cache .mypy_cache .ruff_cache
