# synthmix: make help
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two workers with one thread each beat one with two on models this small; waiting threads must not spin.
export OMP_WAIT_POLICY ?= passive

.PHONY: help quickstart test test-slow test-slurm checks clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(VENV)/.installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	# torch first and by its pin: a looser request may bring several gigabytes of CUDA
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	# a reference of the tests; what it depends on (pyro, gpytorch) is for parts of it that they do not use
	$(BIN)/python -m pip install --quiet --no-deps netcal==1.4.0
	@touch $@

quickstart: $(VENV)/.installed  ## the whole protocol on the nano suite; ends by naming the report it wrote
	$(BIN)/synthmix run quickstart

test: $(VENV)/.installed  ## the fast tests
	$(BIN)/python -m pytest -n 2 -m "not slow and not slurm"

test-slow: $(VENV)/.installed  ## the slow tests
	# by file: what the tests of one share, forty fits among ranks for one, is made once
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not slurm"

test-slurm: $(VENV)/.installed  ## sweeps against a real SLURM, which it brings up on this machine (Debian, as root)
	$(BIN)/python -m pytest -m slurm tests/slurm

checks: $(VENV)/.installed  ## style and types
	$(BIN)/ruff check synthmix tests experiments notebooks
	$(BIN)/ruff format --check synthmix tests experiments notebooks
	$(BIN)/mypy synthmix

clean:  ## removes the virtual environment and caches; runs/ stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
