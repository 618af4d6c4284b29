# Everything here is safe to repeat. `make help` lists what there is.
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SKYPILOT := $(VENV)/skypilot
SUPPLY := $(VENV)/supply
VULNERABILITIES := https://api.osv.dev
# the first Python that is new enough
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

.DEFAULT_GOAL := help
.PHONY: help install demo readme up down status test test-units test-pretrain-units test-other-units test-failures test-gpu soak lint lint-code lint-launch docs docs-links sbom audit bench

help:
	@echo 'make install   make $(VENV) and install everything into it'
	@echo 'make demo      raw counts to a trained model to scores, on services that run on this machine'
	@echo 'make readme    the commands of README.md; ends the services'
	@echo 'make up        start those services: object store, MLflow, Ray'
	@echo 'make status    show where they are and whether they answer'
	@echo 'make down      end them; their data stays in .local'
	@echo 'make test      the whole test suite'
	@echo 'make test-failures   a run of pretraining under a kill, an outage, damage and a second driver; some minutes'
	@echo 'make test-gpu   what a worker does, on a GPU; says so and does nothing where torch sees none'
	@echo 'make soak      a run killed at 50 random moments, one that meets every fault, others that lose machines and clusters, shrink and grow; builds and growths killed at 20; killed searches and sweeps; faults planted on nodes; services up and down 20 times; all published sets in one corpus; over an hour and a half'
	@echo 'make lint      what CI checks beside the tests'
	@echo 'make docs      the documentation as a site, in docs/_build/html; every warning is an error'
	@echo 'make docs-links   ask whether the addresses in it answer; takes the internet'
	@echo 'make sbom      what is installed, as CycloneDX, in dist/sbom.json'
	@echo 'make audit     known vulnerabilities of the versions of constraints.txt; takes the internet'
	@echo 'make bench     benchmarks; fails where a figure is beyond its bound'

install: $(INSTALLED)

# Modules are compiled once, on all cores: where Python does not write bytecode when it imports
# (PYTHONDONTWRITEBYTECODE), each of Ray's processes would compile all of it again, ten seconds every time. Some packages
# bring templates that do not compile.
# Done again only when one of these files has changed; the packages themselves are used from this folder
$(INSTALLED): pyproject.toml constraints.txt
	@test -n '$(PYTHON)' || { echo 'error: Python 3.11 or later is needed' >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
		--constraint constraints.txt --editable '.[docs,evaluation,proteins,services,test]'
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@touch $@

# The commands of a page, as they are printed there.
demo: install
	@$(call run_page,docs/tutorials/counts-to-report.md)

readme: install
	@$(call run_page,README.md)

run_page = commands=$$($(BIN)/python docs/printed_commands.py $(1)) && bash -c "$$commands"

up: install
	$(BIN)/python -m cluster up

status: install
	$(BIN)/python -m cluster status

down:
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m cluster down; fi

test: install
	@failed=0; $(MAKE) --no-print-directory --jobs 2 --keep-going --output-sync test-units || failed=1; \
	$(BIN)/python -m pytest tests/integration tests/compatibility && exit $$failed

# What keeps one core busy runs side by side; integration tests, whose processes import on all cores, come after it.
test-units: test-pretrain-units test-other-units

test-pretrain-units: install
	TEST_THREADS=1 $(BIN)/python -m pytest -o cache_dir=.pytest_cache/pretrain tests/unit/pretrain

test-other-units: install
	TEST_THREADS=1 $(BIN)/python -m pytest -o cache_dir=.pytest_cache/others --ignore tests/unit/pretrain tests/unit tests/golden

test-failures: install
	$(BIN)/python -m pytest tests/failures

test-gpu: install
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
		TEST_WITH_GPU=1 $(BIN)/python -m pytest tests/integration/pretrain/test_pretrain_worker.py; \
	else echo 'tests on GPUs skipped: torch sees no GPU here'; fi

soak: install
	$(BIN)/python -m pytest -s tests/soak

# What keeps one core busy runs side by side.
lint: install
	@$(MAKE) --no-print-directory --jobs 2 --keep-going --output-sync lint-code lint-launch docs

lint-code: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# What starts clusters; the unit tests check the rest of it. SkyPilot's own parser reads its file, in an environment of
# its own, since it wants other versions than the project; it reaches no cloud for that.
lint-launch: install $(SKYPILOT)/.installed
	$(BIN)/hadolint cluster/cloud/Dockerfile
	$(BIN)/shellcheck --severity=warning cluster/cloud/*.sh examples/*.sh .ci/run
	HOME=$(abspath $(SKYPILOT)) SKYPILOT_DISABLE_USAGE_COLLECTION=1 RAY_AUTH_TOKEN=none \
		$(SKYPILOT)/bin/python -c 'import sky; print(sky.Task.from_yaml("cluster/cloud/skypilot.yaml"))'

$(SKYPILOT)/.installed: cluster/cloud/skypilot.yaml
	$(PYTHON) -m venv $(SKYPILOT)
	$(SKYPILOT)/bin/python -m pip install --quiet --disable-pip-version-check \
		$$(sed -n 's/.*pip install .\(skypilot\)\[aws\]\(==[0-9.]*\).*/\1\2/p' cluster/cloud/skypilot.yaml)
	@touch $@

# Links between pages and to their headings are checked on the way.
docs: install
	$(BIN)/python -m sphinx -q -W --keep-going -c docs/site . docs/_build/html

docs-links: install
	$(BIN)/python -m sphinx -q -b linkcheck -c docs/site . docs/_build/links

# What the project is made of and what is known against it, by tools in an environment of their own: they are not part of it.
sbom: install $(SUPPLY)/.installed
	mkdir -p dist
	$(SUPPLY)/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-reproducible \
		--output-format JSON --output-file dist/sbom.json

audit: $(SUPPLY)/.installed
	@$(SUPPLY)/bin/python -c 'import requests; requests.get("$(VULNERABILITIES)", timeout=10)' 2> /dev/null || \
		{ echo 'error: $(VULNERABILITIES) cannot be reached, which knows the vulnerabilities' >&2; exit 1; }
	$(SUPPLY)/bin/pip-audit --vulnerability-service osv --no-deps --disable-pip --requirement constraints.txt

$(SUPPLY)/.installed:
	$(PYTHON) -m venv $(SUPPLY)
	$(SUPPLY)/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0 pip-audit==2.10.1
	@touch $@

bench: install
	@failed=0; for script in benchmarks/*.py; do echo "$$script"; $(BIN)/python $$script || failed=1; done; exit $$failed
