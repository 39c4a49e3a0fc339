# Every command of this project; CI calls the same ones.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
PYOPS_WAREHOUSE ?= warehouse.duckdb
TEST_PROCESSES ?= 2
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

dbt_packages/dbt_utils/dbt_project.yml: packages.yml $(shell find offline -type f) | .venv/ready
	@offline/install-packages $(BIN)/dbt

deps: dbt_packages/dbt_utils/dbt_project.yml ## install the dbt packages (the stand-in where the hub cannot be reached)

setup: .venv/ready deps ## make the environment and install the dbt packages

run: setup ## the demo: a real PostgreSQL shop, landed, modelled and tested; then two more days of it
	$(BIN)/pyops demo up
	$(BIN)/pyops run
	$(BIN)/pyops demo traffic --days 2
	$(BIN)/pyops run
	$(BIN)/pyops status

test: setup ## the tests: real PostgreSQL, real DuckDB, real dbt
	$(BIN)/pytest --numprocesses $(TEST_PROCESSES) --dist worksteal

# The oldest PostgreSQL that is served, by the folder of its programs; Debian's package has it there.
test-servers: export TEST_POSTGRES ?= /usr/lib/postgresql/15/bin
test-servers: setup ## the tests of what a server does, on PostgreSQL 15
	$(BIN)/pytest --numprocesses $(TEST_PROCESSES) --dist worksteal $(addprefix tests/pyops/test_,\
		cdc_faults.py cdc_landing.py cdc_schema.py cdc_source.py cdc_traffic.py pgoutput.py \
		incremental.py reconciliation.py locks.py faithful_changes.py faithful_extraction.py)

test-deep: setup ## the property tests, on twenty times as many examples
	$(BIN)/pytest --numprocesses $(TEST_PROCESSES) --dist worksteal -m hypothesis --hypothesis-profile deep

# dbt-bouncer needs an older DuckDB, so it has an environment of its own.
lint/.venv/ready: lint/constraints.txt
	$(PYTHON) -m venv lint/.venv
	lint/$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

lint: export DBT_TARGET_PATH := target/lint
lint: export COLUMNS := 160
# dbt-bouncer loses the message of one check when it reads its own cache.
lint: export DBT_BOUNCER_DISABLE_CONF_CACHE := 1
lint: setup lint/.venv/ready ## ruff, mypy, dbt parse, sqlfluff and dbt-bouncer
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/dbt --quiet --warn-error parse --target lint
	$(BIN)/sqlfluff lint models tests/singular
	lint/$(BIN)/dbt-bouncer run --show-all-failures

docs: export DBT_TARGET_PATH := target/docs
docs: setup ## the dbt docs as one page, target/docs/index.html
ifeq ($(wildcard $(PYOPS_WAREHOUSE)),)
	@echo "There is no $(PYOPS_WAREHOUSE): the page will lack what only it knows, such as the" \
		"types of columns. For a whole one: make run, then make docs." >&2
	$(BIN)/dbt --quiet docs generate --static --target lint --empty-catalog
else
	$(BIN)/dbt --quiet docs generate --static
endif
	mv target/docs/static_index.html target/docs/index.html

docs-test: docs ## open that page in Chromium and look whether all is there
	$(BIN)/pytest tests/docs_page

# What is not selected is read from production, whose database has the name of
# its file; what is selected is built anew, incremental or not.
changes: export PYOPS_WAREHOUSE := $(PYOPS_WAREHOUSE)
changes: export DBT_TARGET_PATH := target/changes
changes: setup ## build what changed since STATE, a folder with production's manifest.json
	$(BIN)/dbt build --target ci --select state:modified+ --full-refresh \
		--defer --favor-state --state $(or $(STATE),$(error say where production's manifest.json is: make changes STATE=folder)) \
		--vars '{raw_database: $(basename $(notdir $(PYOPS_WAREHOUSE)))}'

bench: setup ## the benchmarks: minutes, and a quiet machine
	bench/all

clean: ## stop the demo and remove everything that was built here
	-$(BIN)/pyops demo down --delete
	rm -rf .pyops .venv bench/.venv lint/.venv target logs dbt_packages warehouse.duckdb warehouse.duckdb.wal

.PHONY: help deps setup run test test-servers test-deep lint docs docs-test changes bench clean
