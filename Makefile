# Two commands on a fresh machine: `make run` (the main job to its end) and `make test` (all tests).
VENV := .venv
PY := $(VENV)/bin/python
PYTHON ?= python3
SPEC ?= jobs/specs/flights.yaml
SERVING ?= serve_configs/flights.yaml
TESTS ?= tests/unit
# Test processes beside each other; 0 is this one. One of them runs tests/ray, which shares a cluster.
PROCESSES ?= 2
PYTEST = $(VENV)/bin/python -m pytest -n $(PROCESSES)

.PHONY: help run serve examples test test-unit test-ray test-e2e test-quick test-extras survive lint check bench docs packages clean tools
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

run: $(VENV)/installed  ## search on the flights, register the best, serve it and send it one request
	$(PY) -m raymlops search $(SPEC)
	$(PY) -m raymlops serve $(SERVING) --check

serve: $(VENV)/installed  ## serve the champion until interrupted, or SERVING=FILE, with the example models that it names
	$(PY) -m examples.models $(SERVING)
	$(PY) -m raymlops serve $(SERVING)

examples: $(VENV)/installed  ## make the models that the files of serve_configs/ and examples/ name, if they are missing
	$(PY) -m examples.models

test: $(VENV)/installed  ## all tests but those of `survive`
	$(PYTEST) --durations 15 --durations-min 5

test-unit: $(VENV)/installed  ## the tests that need no cluster
	$(PYTEST) tests/unit tests/test_layers.py

test-ray: $(VENV)/installed  ## the tests that share a small cluster
	$(PYTEST) tests/ray

test-e2e: $(VENV)/installed  ## the tests that run what users type
	$(PYTEST) tests/e2e

test-quick: check  ## for a change: lint, types, layers, and the fast unit tests; of one package with TESTS=tests/unit/PACKAGE
	$(PYTEST) -q $(TESTS) -m "not slow"

survive: $(VENV)/installed  ## kill drivers, nodes and replicas under load, scale fake clusters, send a million wrong requests: an hour
	$(PY) -m pytest tests/survival

test-extras: $(VENV)/installed  ## clients of other packages, and extras, each in its own environment, made on the first run
	$(PY) -m pytest tests/extras

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

check: lint  ## lint, types, layers: what pre-commit runs
	$(PY) -m pytest -q tests/test_layers.py

bench: $(VENV)/installed  ## every benchmark, as ratios
	$(PY) -m benchmarks

docs: $(VENV)/installed  ## build the documentation into site/, with reference pages made from the code
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	@echo "Read it: $(PY) -m http.server --directory site --bind 127.0.0.1 8100"

packages:  ## Debian packages that some tests and benchmarks use, as root; without them those tests are skipped
	apt-get update -qq -o Acquire::http::Timeout=20 -o Acquire::Retries=1
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$(sed 's/#.*//' debian-packages.txt)

clean:  ## remove the venv and every cache
	rm -rf $(VENV) .venv-extras .pytest_cache .mypy_cache .ruff_cache .hypothesis build site *.egg-info

tools:
	@command -v $(PYTHON) >/dev/null || { echo "python3 is missing; install Python 3.11 or later (Debian: apt-get install python3 python3-venv)" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version) is too old; raymlops needs 3.11 or later: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv module is missing (Debian: apt-get install python3-venv)" >&2; exit 2; }
	@command -v git >/dev/null || echo "git is missing: models will be registered without a code commit (Debian: apt-get install git)" >&2

$(VENV)/installed: pyproject.toml constraints.txt | tools
	$(PYTHON) -m venv $(VENV)
	@echo "Installing pinned versions into $(VENV); about three minutes and 2.5 GB"
	@# In the default mode a folder ~/raymlops in the working directory would be imported instead of the package.
	$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt --config-settings editable_mode=compat -e '.[dev]'
	@touch $@
