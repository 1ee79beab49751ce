PYTHON ?= python3
JOBS ?= 2
# Errors of TensorFlow's runtime also arrive as Python exceptions.
export TF_CPP_MIN_LOG_LEVEL ?= 3

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --editable

.PHONY: help quickstart test lint format notebooks docs clean

help:
	@echo "make quickstart  train on wrong labels, with SGD and without harm"
	@echo "make test        lint, then run all tests on JOBS=$(JOBS) processes"
	@echo "make lint        ruff check and ruff format --check"
	@echo "make format      let ruff mend and format the code"
	@echo "make notebooks   make those of colab/ from their sources"
	@echo "make docs        the site, in docs/_build/html"
	@echo "make clean       remove $(VENV) and caches"
	@echo "All need $(PYTHON) >= 3.11; PYTHON=... takes another one."

quickstart: $(VENV)/quickstart.stamp
	$(BIN)/python -m benchmarks.quickstart

test: lint
	$(BIN)/python -m pytest --quiet -n $(JOBS) --dist worksteal

lint: $(VENV)/test.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(VENV)/test.stamp
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

notebooks: $(VENV)/test.stamp
	$(BIN)/python -m colab.notebooks

docs: $(VENV)/test.stamp
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going \
	    docs docs/_build/html

clean:
	rm -rf docs/_build docs/notebooks docs/project docs/results
	rm -rf $(VENV) build dist *.egg-info
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/made.stamp:
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 11) and sys.exit( \
	    "Expected Python >= 3.11 as PYTHON. Received: " + sys.version)'
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/quickstart.stamp: $(VENV)/made.stamp pyproject.toml
	$(INSTALL) '.[cpu,benchmarks]'
	@touch $@

$(VENV)/test.stamp: $(VENV)/made.stamp pyproject.toml
	$(INSTALL) '.[cpu,benchmarks,test,tuner]'
	@touch $@
