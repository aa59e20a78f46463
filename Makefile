# Everything runs in .venv, which `make setup` makes once from constraints.txt; every target below depends on it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := mini,joblib,dev

PROFILE ?= mini
# Narrow and scale: make reproduce-glue TASKS=rte,mrpc METHODS=lora,shim SEEDS=0,1,2 JOBS=2 LAUNCHER=joblib
# Keys with a dot, and model, rank, targets, init_from, are given as they are: make reproduce-glue PROFILE=paper model.path=DIR
DOTTED := $(foreach v,$(.VARIABLES),$(if $(findstring .,$v),$(if $(filter command line,$(origin $v)),'$v=$($v)')))
PLAIN := $(foreach v,model rank targets init_from,$(if $(filter command line,$(origin $v)),'$v=$($v)'))
OVERRIDES = profile=$(PROFILE) $(if $(TASKS),task=$(TASKS)) $(if $(METHODS),transform=$(METHODS)) $(if $(SEEDS),seed=$(SEEDS)) $(PLAIN) $(DOTTED)
SCALE = $(if $(JOBS),--jobs $(JOBS)) $(if $(LAUNCHER),--launcher $(LAUNCHER))

.DEFAULT_GOAL := help
.PHONY: help setup test test-peft lint reproduce-glue tables plan download

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(STAMP) ## make .venv with the tested versions

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed: make setup PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

test: $(STAMP) ## run the tests
	$(BIN)/python -m pytest -n auto tests

test-peft: $(STAMP) ## run PEFT's own tests against MTLoraConfig (fetches PEFT's source package)
	$(BIN)/python tests/peft_suite/run.py

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

reproduce-glue: $(STAMP) ## train LoRA and MTLoRA on the eight GLUE tasks and print the table (PROFILE=mini or paper)
	@$(BIN)/python -m mtlora.reproduce glue $(OVERRIDES) $(SCALE)

plan: $(STAMP) ## show what reproduce-glue would still run, and how long it takes
	@$(BIN)/python -m mtlora.plan glue $(OVERRIDES)

tables: $(STAMP) ## make the tables again from the records (RUNS=folder or records.jsonl)
	@$(BIN)/python -m mtlora.tables glue $(OVERRIDES) $(if $(RUNS),--runs $(RUNS))

download: $(STAMP) ## fetch the data and the model of a profile ahead, for machines without network
	@$(BIN)/python -m mtlora.download glue $(OVERRIDES)
