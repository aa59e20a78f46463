# Everything runs in .venv, which `make setup` makes once from constraints.txt; every target except `help` depends on it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := harness,mini,metrics,joblib,dev
SUITES := $(basename $(notdir $(wildcard experiments/*.yaml)))

# To narrow and scale: make reproduce-glue TASKS=rte,mrpc METHODS=lora,shim SEEDS=0,1,2 JOBS=2 LAUNCHER=local
VARIABLES := PYTHON EXTRAS PROFILE PROTOCOL SUITE TASKS METHODS SEEDS JOBS LAUNCHER RUNS
# Keys of a configuration are passed on as they are: make reproduce-glue PROFILE=paper model.path=DIR results=DIR
KEYS := model rank targets init_from results tracking recipe tuning tuned_choice

# Messages then name variables and targets, as they were typed here.
export MTLORA_BY_MAKE := 1

# The names of the variables on make's command line, except make's own.
GIVEN := $(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name)))
GIVEN := $(filter-out MAKEFLAGS MAKEOVERRIDES -*-%,$(GIVEN))
# The names that are keys with a dot, such as train.epochs.
DOTTED := $(foreach name,$(GIVEN),$(if $(findstring .,$(name)),$(name)))

# An unknown name is an error: TASK=rte in place of TASKS=rte would start the whole grid.
UNKNOWN := $(filter-out $(VARIABLES) $(KEYS) $(DOTTED),$(GIVEN))
ifneq ($(UNKNOWN),)
$(error $(firstword $(UNKNOWN)) is not a variable of this Makefile: use $(VARIABLES) $(KEYS), or a key with a dot such as train.epochs)
endif

# One word for the shell, whatever is in it: SEEDS='range(0,2)', data.root="/home/o'neil/my data".
quote = '$(subst ','\'',$(1))'

# Of the benchmarks, which do not go through Hydra: with ~ replaced.
DATA = $(call quote,$(patsubst ~/%,$(HOME)/%,$(data.root)))

OVERRIDES := $(if $(PROFILE),$(call quote,profile=$(PROFILE)))
OVERRIDES += $(if $(PROTOCOL),$(call quote,protocol=$(PROTOCOL)))
OVERRIDES += $(if $(TASKS),$(call quote,task=$(TASKS)))
OVERRIDES += $(if $(METHODS),$(call quote,transform=$(METHODS)))
OVERRIDES += $(if $(SEEDS),$(call quote,seed=$(SEEDS)))
OVERRIDES += $(foreach name,$(filter $(KEYS) $(DOTTED),$(GIVEN)),$(call quote,$(name)=$($(name))))
SCALE := $(if $(JOBS),--jobs $(JOBS)) $(if $(LAUNCHER),--launcher $(LAUNCHER))

.DEFAULT_GOAL := help
REPRODUCE := $(addprefix reproduce-,$(SUITES))
.PHONY: help setup test test-peft test-slurm test-ray lint $(REPRODUCE) tune tables report calibration chaos bench plan download

# The first line of an experiment's file describes its target.
help: ## list the targets and the variables
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20
	@for suite in $(SUITES); do printf 'reproduce-%s\t%s\n' "$$suite" "$$(sed -n '1s/^# *//p' experiments/$$suite.yaml)"; done | expand -t 20
	@sed -nE 's/^#\? //p' $(firstword $(MAKEFILE_LIST))

#? 
#? Variables, as in: make reproduce-glue TASKS=rte,mrpc METHODS=lora,shim SEEDS=0,1,2 JOBS=2
#?   TASKS     the tasks, such as rte,mrpc (conf/task/)          METHODS   the methods, such as lora,shim (conf/transform/)
#?   SEEDS     the seeds, such as 0,1,2                          PROFILE   mini (default), study or paper (conf/profile/)
#?   PROTOCOL  published, matched or tuned: what is held equal   JOBS      runs or cohorts at a time
#?   LAUNCHER  cohort, local, joblib, slurm or ray               SUITE     the experiment of tune, plan, tables, report, download
#?   RUNS      runs folder, file or study for tables and report  also model, rank, targets, results and keys with a dot (train.epochs=1)

setup: $(STAMP) ## make .venv with the tested versions

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed: make setup PYTHON=python3.11"; exit 1; }
	@echo "Installing the tested packages into $(VENV): about 2 GB, some minutes, only the first time."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --progress-bar off --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@
	@echo "Installed. make help lists what it can do; make reproduce-glue trains and prints a table."

test: $(STAMP) ## run the tests
	$(BIN)/python -m pytest -n auto --dist loadgroup tests

test-peft: $(STAMP) ## run PEFT's own tests against MTLoraConfig (fetches PEFT's source package)
	$(BIN)/python tests/peft_suite/run.py

test-slurm: $(STAMP) ## run a sweep on Slurm (needs the extra `slurm` and a cluster: tests/clusters/slurm.sh)
	$(BIN)/python -m pytest -m slurm tests

test-ray: $(STAMP) ## run a sweep on Ray (needs the extra `ray`)
	$(BIN)/python -m pytest -m ray tests

lint: $(STAMP) ## ruff, import-linter and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy --num-workers auto

$(REPRODUCE): reproduce-%: $(STAMP)
	$(if $(SUITE)$(RUNS),$(error reproduce-$* takes neither SUITE nor RUNS: the target names the suite))
	@$(BIN)/python -m mtlora.reproduce $* $(OVERRIDES) $(SCALE)

tune: $(STAMP) ## choose a learning rate for each method of SUITE on held-out training rows (data-to-text: the development set); then reproduce-SUITE PROTOCOL=tuned
	@$(BIN)/python -m mtlora.tune $(or $(SUITE),glue) $(OVERRIDES) $(SCALE)

chaos: $(STAMP) ## kill sweeps, fill their disk and damage their files; check that no record is lost, duplicated or wrong
	@$(BIN)/python tools/benchmarks/chaos.py

bench: $(STAMP) ## compare the speed with other libraries, in about 20 minutes; data.root=DIR (GLUE's files) adds real lengths and the grid
ifdef data.root
	@test -d $(DATA) || { echo $(call quote,error: data.root=$(data.root) is not a folder: name the one that holds GLUE's files); exit 1; }
endif
	@rm -f results/benchmarks/summary.json
	@$(BIN)/python tools/benchmarks/steps.py
	@$(BIN)/python tools/benchmarks/cohorts.py
	@$(BIN)/python tools/benchmarks/decode.py
ifdef data.root
	@$(BIN)/python tools/benchmarks/batches.py --data-root $(DATA)
	@$(BIN)/python tools/benchmarks/grid.py --data-root $(DATA)
else
	@$(BIN)/python tools/benchmarks/batches.py
endif

plan: $(STAMP) ## show the runs that reproduce-SUITE still has to make, and how long they take (SUITE=glue, dart, ...)
	@$(BIN)/python -m mtlora.plan $(or $(SUITE),glue) $(OVERRIDES) $(if $(JOBS),--jobs $(JOBS))

tables: $(STAMP) ## make all tables, or those of SUITE, from the records (RUNS=a runs folder, a records.jsonl, or the folder of a study)
	@$(BIN)/python -m mtlora.tables $(or $(SUITE),all) $(OVERRIDES) $(if $(RUNS),--runs $(call quote,$(RUNS)))

report: $(STAMP) ## write results/report.html (verdicts, tables, figures) from the records; SUITE and RUNS as for tables
	@$(BIN)/python -m mtlora.report $(or $(SUITE),all) $(OVERRIDES) $(if $(RUNS),--runs $(call quote,$(RUNS)))

calibration: $(STAMP) ## check the statistics on simulated experiments: false positives of the tests, coverage of the intervals
	@$(BIN)/python tools/benchmarks/calibration.py

download: $(STAMP) ## fetch the data of SUITE and the model of PROFILE for machines without network
	@$(BIN)/python -m mtlora.plan.download $(or $(SUITE),glue) $(OVERRIDES)
