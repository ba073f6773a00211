# `make demo` and `make test` work from a fresh clone on a bare Debian 12 and install only what they need.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# More than a small machine has cores: the tests mostly wait. WORKERS=0 runs them in one process, for a debugger.
WORKERS ?= 4
BIN := $(VENV)/bin
# No compilation: it takes a third of the time, mostly for modules that are never imported.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check -qq install --no-compile

# The suite also runs on a newer Python if one is installed. A pyenv shim may exist but fail to run.
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
NEWER = $(shell python3.13 -c 'import ensurepip' >/dev/null 2>&1 && echo python3.13)
PYTHONS ?= $(PYTHON) $(filter-out python$(VERSION),$(NEWER))

# The stamp names contain the Python version, so that another PYTHON gets another environment.
RUN := $(VENV)/.run-$(VERSION)
PROJECT := $(VENV)/.project-$(VERSION)
DEV := $(VENV)/.dev-$(VERSION)
AUDIT := .venv-audit/.installed-$(VERSION)
SBOM ?= sbom.json
ENGINE ?= docker
IMAGE ?= tunnel-reconciler
RELEASE = $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' reconciler/__init__.py)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test pytest lint docs reference coverage bench bench-compare fuzz container-test soak audit sbom image image-test lock clean system-packages

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(PROJECT) ## Watch tunnels converge, with an SSH server inside the demo
	@$(BIN)/tunnels demo $(ARGS)

test: system-packages lint ## Run the linters and all tests; ARGS='-k relay' for pytest, PYTHONS=python3.12 for another Python
	@set -e; for python in $(PYTHONS); do \
	    venv=.venv-$${python##*python}; \
	    if [ "$$python" = "$(PYTHON)" ]; then venv=$(VENV); fi; \
	    $(MAKE) --no-print-directory pytest PYTHON="$$python" VENV="$$venv"; \
	done

pytest: $(PROJECT) $(DEV)
	$(BIN)/pytest --numprocesses=$(WORKERS) --dist=worksteal $(ARGS)

lint: $(PROJECT) $(DEV) ## Run the linters alone
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: $(PROJECT) $(DEV) ## Build the documentation site into build/html and the man pages into build/man
	$(BIN)/python -m sphinx -E -W --keep-going -q -b html docs build/html
	@mkdir -p build/man/man1 build/man/man5
	cp docs/man/*.1 build/man/man1
	cp docs/man/*.5 build/man/man5

reference: $(PROJECT) $(DEV) ## Generate the pages of docs/reference and docs/man from the source
	PYTHONPATH=docs $(BIN)/python -m generate

coverage: $(PROJECT) $(DEV) ## Branch coverage of the unit tests; fails below the floor in pyproject.toml
	$(BIN)/coverage run -m pytest tests/unit --timeout=900 $(ARGS)
	$(BIN)/coverage report

bench: $(PROJECT) $(DEV) ## Measure against asyncssh, ssh and autossh; ARGS='--quick --only throughput' for a part
	PYTHONPATH=tests $(BIN)/python -m bench $(ARGS)

bench-compare: $(PROJECT) $(DEV) ## Compare two runs of make bench: OLD=a.json NEW=b.json
	@PYTHONPATH=tests $(BIN)/python -m bench.compare $(OLD) $(NEW)

soak: $(PROJECT) $(DEV) ## Ten minutes (SOAK_SECONDS) of load and faults: nothing may grow; draws soak.svg
	SOAK_SECONDS=$${SOAK_SECONDS:-600} SOAK_SVG=$${SOAK_SVG:-soak.svg} $(BIN)/pytest tests/faults/test_soak.py $(ARGS)

fuzz: $(PROJECT) $(DEV) ## Fuzz every parser and a running program for five minutes (FUZZ_SECONDS)
	FUZZ_SECONDS=$${FUZZ_SECONDS:-300} $(BIN)/pytest tests/fuzz $(ARGS)

# The caches of pytest and Hypothesis are off: the file system is read-only.
container-test: system-packages $(PROJECT) $(DEV) ## Integration tests as in a container: no user name, no HOME, no capabilities
	$(BIN)/python tests/support/container.py $(abspath $(BIN))/pytest -p no:cacheprovider -p no:hypothesispytest \
	    $(or $(ARGS),tests/integration)

audit: $(AUDIT) ## Check requirements/run.txt against the index of security advisories (needs network access)
	@.venv-audit/bin/pip-audit --strict --require-hashes --disable-pip -r requirements/run.txt || { \
	    echo "make audit: failed: see the advisory above, or retry if the index did not answer" >&2; \
	    exit 1; }

sbom: $(PROJECT) ## Write sbom.json, a CycloneDX bill of materials of the locked dependencies (SBOM names the file)
	@$(BIN)/python requirements/sbom.py >$(SBOM).part && mv $(SBOM).part $(SBOM)

# The time is that of the commit, so that two builds have the same labels. podman and buildah write OCI images by
# default, which have no health check.
image: ## Build the container image (ENGINE names docker, podman or buildah; IMAGE its name)
	@BUILDAH_FORMAT=docker $(ENGINE) build --build-arg VERSION="$(RELEASE)" --build-arg REVISION="$$(git rev-parse HEAD)" \
	    --build-arg CREATED="$$(git log -1 --format=%cI)" --tag "$(IMAGE):$(RELEASE)" $(ARGS) .

image-test: system-packages $(PROJECT) $(DEV) ## Build the image with buildah and run every command in its root, as root
	$(BIN)/pytest tests/integration/test_container_conditions.py -k in_the_image $(ARGS)

lock: ## Upgrade all locked versions in requirements/
	@test -x .venv-lock/bin/uv || { $(PYTHON) -m venv .venv-lock && .venv-lock/bin/pip --quiet install uv; }
	$(LOCK) --extra dev pyproject.toml requirements/build.in -o requirements/dev.txt
	$(LOCK) -c requirements/dev.txt pyproject.toml -o requirements/run.txt
	$(LOCK) -c requirements/dev.txt requirements/build.in -o requirements/build.txt
	$(LOCK) requirements/audit.in -o requirements/audit.txt

# Universal: one file has the hashes for every platform and for Python 3.11 and later. No header: it would contain local paths.
LOCK := .venv-lock/bin/uv --quiet pip compile --upgrade --universal --python-version 3.11 --generate-hashes --no-header

clean: ## Remove all build products and environments
	rm -rf .venv* dist build sbom.json bench-figures htmlcov .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

system-packages:
	@tests/system-packages.sh

# A changed lock recreates the environment: an old one would hide a removed dependency.
$(RUN): requirements/build.txt requirements/run.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo "$(PYTHON) is not Python 3.11 or later: name another one, as in make PYTHON=python3.12" >&2; exit 1; }
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

# A separate environment: pip-audit checks the lock, and its own dependencies are not the project's.
$(AUDIT): requirements/audit.txt
	@$(PYTHON) -m venv --clear .venv-audit
	@.venv-audit/bin/python -m pip --disable-pip-version-check -qq install --no-compile --require-hashes -r $<
	@touch $@

# pip check fails if pyproject.toml requires a package that the lock lacks: run `make lock`.
$(PROJECT): $(RUN) pyproject.toml
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m pip check >$@.log || { cat $@.log; exit 1; }
	@touch $@
