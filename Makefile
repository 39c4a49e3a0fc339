# Every command of this project; CI calls the same ones.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

dbt_packages/dbt_utils/dbt_project.yml: packages.yml $(shell find offline -type f) | .venv/ready
	@offline/install-packages $(BIN)/dbt

deps: dbt_packages/dbt_utils/dbt_project.yml ## install the dbt packages (the stand-in where the hub cannot be reached)

setup: .venv/ready deps ## make the environment and install the dbt packages

run: setup ## the demo: a real PostgreSQL shop, extracted, modelled and tested
	$(BIN)/pyops demo up
	$(BIN)/pyops run
	$(BIN)/pyops status

test: setup ## the tests: real PostgreSQL, real DuckDB, real dbt
	$(BIN)/pytest

lint: export DBT_TARGET_PATH := target/lint
lint: setup ## ruff, mypy, dbt parse and sqlfluff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/dbt --quiet --warn-error parse --target lint
	$(BIN)/sqlfluff lint models tests/singular

bench: setup ## the benchmarks: minutes, and a quiet machine
	bench/all

clean: ## stop the demo and remove everything that was built here
	-$(BIN)/pyops demo down --delete
	rm -rf .pyops .venv target logs dbt_packages warehouse.duckdb warehouse.duckdb.wal

.PHONY: help deps setup run test lint bench clean
