# `make demo` and `make test` work from a fresh clone on a bare Debian 12: they set up what they need and no more.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
# Compiling all that is installed takes a third of the time, most of it for modules that are never imported.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check -qq install --no-compile

# The suite also runs on a newer Python where there is one; a pyenv shim may exist and yet fail to run.
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
NEWER = $(shell python3.13 -c 'import ensurepip' >/dev/null 2>&1 && echo python3.13)
PYTHONS ?= $(PYTHON) $(filter-out python$(VERSION),$(NEWER))

# The Python's version is in the stamps' names, so that another PYTHON makes another environment.
RUN := $(VENV)/.run-$(VERSION)
PROJECT := $(VENV)/.project-$(VERSION)
DEV := $(VENV)/.dev-$(VERSION)
AUDIT := .venv-audit/.installed-$(VERSION)
SBOM ?= sbom.json

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test pytest lint bench fuzz container-test soak audit sbom lock clean system-packages

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(PROJECT) ## Watch tunnels converge, against an SSH server of the demo's own
	@$(BIN)/tunnels demo $(ARGS)

test: system-packages lint ## Run the linters and all tests; ARGS='-k relay' goes to pytest, PYTHONS=python3.12 chooses
	@set -e; for python in $(PYTHONS); do \
	    venv=.venv-$${python##*python}; \
	    if [ "$$python" = "$(PYTHON)" ]; then venv=$(VENV); fi; \
	    $(MAKE) --no-print-directory pytest PYTHON="$$python" VENV="$$venv"; \
	done

pytest: $(PROJECT) $(DEV)
	$(BIN)/pytest $(ARGS)

lint: $(PROJECT) $(DEV) ## Run the linters alone
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(PROJECT) $(DEV) ## Measure against autossh and ssh (tests/bench)
	PYTHONPATH=tests $(BIN)/python -m bench $(ARGS)

soak: $(PROJECT) $(DEV) ## Trouble without end for ten minutes (SOAK_SECONDS): what grows? Draws soak.svg
	SOAK_SECONDS=$${SOAK_SECONDS:-600} SOAK_SVG=$${SOAK_SVG:-soak.svg} $(BIN)/pytest tests/faults/test_soak.py $(ARGS)

fuzz: $(PROJECT) $(DEV) ## Generated inputs against every parser and a running program for five minutes (FUZZ_SECONDS)
	FUZZ_SECONDS=$${FUZZ_SECONDS:-300} $(BIN)/pytest tests/fuzz $(ARGS)

# What pytest and Hypothesis keep between runs they cannot write there.
container-test: system-packages $(PROJECT) $(DEV) ## Integration tests as in a container: no name, no HOME, no capabilities
	$(BIN)/python tests/support/container.py $(abspath $(BIN))/pytest -p no:cacheprovider -p no:hypothesispytest \
	    $(or $(ARGS),tests/integration)

audit: $(AUDIT) ## Ask the index of advisories about everything in requirements/run.txt (needs to reach it)
	@.venv-audit/bin/pip-audit --strict --require-hashes --disable-pip -r requirements/run.txt || { \
	    echo "make audit: failed: an advisory is named above, or the index of advisories did not answer for a package" >&2; \
	    exit 1; }

sbom: $(PROJECT) ## Write sbom.json, a CycloneDX bill of materials of the locked dependencies (SBOM names the file)
	@$(BIN)/python requirements/sbom.py >$(SBOM).part && mv $(SBOM).part $(SBOM)

lock: ## Choose the newest versions of everything and write requirements/
	@test -x .venv-lock/bin/uv || { $(PYTHON) -m venv .venv-lock && .venv-lock/bin/pip --quiet install uv; }
	$(LOCK) --extra dev pyproject.toml requirements/build.in -o requirements/dev.txt
	$(LOCK) -c requirements/dev.txt pyproject.toml -o requirements/run.txt
	$(LOCK) -c requirements/dev.txt requirements/build.in -o requirements/build.txt
	$(LOCK) requirements/audit.in -o requirements/audit.txt

# Universal: one file holds the hashes for every platform and for Python 3.11 and later. No header: it would name this machine's paths.
LOCK := .venv-lock/bin/uv --quiet pip compile --upgrade --universal --python-version 3.11 --generate-hashes --no-header

clean: ## Remove everything that was made here
	rm -rf .venv* dist build sbom.json htmlcov .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

system-packages:
	@tests/system-packages.sh

# A changed lock starts afresh: an environment that was only added to would hide a dependency that is no longer there.
$(RUN): requirements/build.txt requirements/run.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo "This needs Python 3.11 or later, and $(PYTHON) is not: name another one, as in make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" -eq 0 ] && apt-get -qq update && \
	    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y python3-venv >/dev/null; } || \
	    { echo "$(PYTHON) cannot make virtual environments: install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(INSTALL) --require-hashes -r requirements/build.txt -r requirements/run.txt
	@touch $@

$(DEV): $(RUN) requirements/dev.txt
	@$(INSTALL) --require-hashes -r requirements/dev.txt
	@touch $@

# Apart from the environment that is tested: it asks about the lock, and its own dependencies are none of ours.
$(AUDIT): requirements/audit.txt
	@$(PYTHON) -m venv --clear .venv-audit
	@.venv-audit/bin/python -m pip --disable-pip-version-check -qq install --no-compile --require-hashes -r $<
	@touch $@

# pip check fails if pyproject.toml asks for what the lock lacks: then `make lock` was forgotten.
$(PROJECT): $(RUN) pyproject.toml
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m pip check >$@.log || { cat $@.log; exit 1; }
	@touch $@
