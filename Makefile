# On a machine with only Python: `make lab` opens the course, `make test` proves it.

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt# empty: the newest versions that fit pyproject.toml
PIP_FLAGS ?=# e.g. --extra-index-url https://download.pytorch.org/whl/cpu
WORKERS ?= $(shell $(PYTHON) -c 'import os; n = os.cpu_count(); print(min(n, 4) if n > 1 else 0)')# 0: pytest without pytest-xdist
LAB_FLAGS ?= $(if $(filter 0,$(shell id -u)),--allow-root)# Jupyter refuses to start as root otherwise (containers)

BIN := .venv/bin
STAMP := .venv/.installed
SETTINGS := $(shell find tools/jupyter -type f)

.DEFAULT_GOAL := help
.PHONY: help env lab test lint unit nbval notebooks format clean

help:
	@echo "make lab        build .venv and open JupyterLab on notebook 00"
	@echo "make test       build .venv and run every check: lint, unit tests, doctests, notebooks, browser"
	@echo "make lint       ruff check and ruff format --check"
	@echo "make unit       unit tests and doctests only"
	@echo "make nbval      run the notebooks and compare them with their stored outputs"
	@echo "make notebooks  run each notebooks/*.py and write its .ipynb with outputs"
	@echo "make format     let ruff format and fix"
	@echo "make clean      remove .venv, builds and caches"

# The stamp makes it idempotent: pip runs again only when the dependencies may have changed.
$(STAMP): pyproject.toml $(CONSTRAINTS) $(SETTINGS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, $(PYTHON) is " + sys.version.split()[0])'
	@echo "==> building .venv (about 2 GB and a minute or more, once)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e ".[lab,test]"
	mkdir -p .venv/etc/jupyter
	cp -R tools/jupyter/. .venv/etc/jupyter/
	@touch $(STAMP)

env: $(STAMP)

lab: $(STAMP)
	@echo "==> opening JupyterLab on notebook 00 (Ctrl-C ends it)"
	$(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" $(LAB_FLAGS) $(wildcard notebooks/00_*.ipynb)

# One pytest run, so that a failure in one kind of check hides no other.
test: lint
	@echo "==> unit tests, doctests, notebooks, browser"
	$(BIN)/python -m pytest -q -n $(WORKERS) --nbval --doctest-modules tests diffflow_edu notebooks

lint: $(STAMP)
	@echo "==> ruff"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

unit: $(STAMP)
	@echo "==> unit tests and doctests"
	$(BIN)/python -m pytest -q -n $(WORKERS) --doctest-modules tests diffflow_edu

nbval: $(STAMP)
	@echo "==> notebooks against their stored outputs"
	$(BIN)/python -m pytest -q -n $(WORKERS) --nbval notebooks

notebooks: $(STAMP)
	@echo "==> running notebooks/*.py, writing notebooks/*.ipynb"
	$(BIN)/python -m tools.build_notebooks

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	@echo "==> removing .venv, builds and caches"
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -prune -exec rm -rf {} +
