# FortDB on this machine. `make up` and `make test` are all a newcomer needs.

PYTHON ?= python3
PORT ?= $(shell sed -n 's/^ *"port": \([0-9]*\).*/\1/p' .fortdb/ring.json 2>/dev/null | grep . || echo 5000)
NODES ?= 3
PARTITIONS ?= 24
VENV := .venv
BIN := $(VENV)/bin
FORTDB := $(BIN)/fortdb
export FORTDB_PORT = $(PORT)

# Where the providers come from: a mirror on this disk, or else the registry.
TERRAFORM_INIT = TF_CLI_ARGS_init="$(if $(TERRAFORM_PLUGIN_DIR),-plugin-dir=$(TERRAFORM_PLUGIN_DIR))" terraform -chdir=terraform init -backend=false -input=false -lockfile=readonly

.PHONY: help up down status ring cli test test-long-way explore chaos torture torture-short torture-planted bench bench-full terraform deploy-lint rehearsal rehearsal-up rehearsal-down ssh lint format tools clean

help: ## What there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

NATIVE := $(wildcard fortdb/native/*.[ch])

$(VENV)/installed: pyproject.toml setup.py $(NATIVE)
	@command -v $(PYTHON) >/dev/null || { echo "There is no '$(PYTHON)'. FortDB needs Python 3.11 or later: install it, or name yours: make up PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$($(PYTHON) --version). FortDB needs Python 3.11 or later: name yours with make up PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing FortDB into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/deploy: $(VENV)/installed
	@echo "Installing what deploys FortDB into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,deploy]'
	@touch $@

# On its own: it pins half of what everybody else uses.
$(VENV)/checkov: $(VENV)/installed
	@echo "Installing checkov into $(VENV)/checkov"
	@$(PYTHON) -m venv $@
	@$@/bin/python -m pip install --quiet --disable-pip-version-check checkov==3.3.30

up: $(VENV)/installed ## Start a ring of three nodes and a router on 127.0.0.1:5000, and wait until it serves
	@if [ -e .fortdb/ring.json ]; then $(FORTDB) local up; else $(FORTDB) local up --port $(PORT) --nodes $(NODES) --partitions $(PARTITIONS); fi

down: $(VENV)/installed ## Stop the ring; the data stays
	@$(FORTDB) local down

status: $(VENV)/installed ## Nodes, partitions, and whether all is well
	@$(FORTDB) status

ring: $(VENV)/installed ## A picture of the ring
	@$(FORTDB) ring

cli: $(VENV)/installed ## An interactive prompt
	@$(FORTDB)

test: $(VENV)/installed ## Unit, property and integration tests
	@$(BIN)/python -m pytest -m 'not chaos and not torture and not terraform' --ignore tests/deploy

explore: $(VENV)/installed ## The property tests and the fuzzing with new examples: make explore TIMES=10
	@for run in $$(seq $(or $(TIMES),3)); do $(BIN)/python -m pytest -q --hypothesis-profile explore -m 'hypothesis and not chaos' --ignore tests/deploy || exit; done

chaos: $(VENV)/installed ## Minutes of faults, in simulation and on real rings: failovers in the middle of each feature
	@$(BIN)/python -m pytest -m chaos --ignore tests/deploy --timeout 1800

test-long-way: $(VENV)/installed ## The tests of whole rings without the functions in C, as on a machine without a C compiler
	@FORTDB_NATIVE=0 $(BIN)/python -m pytest tests/integration/test_clients.py tests/integration/test_failover.py tests/integration/test_security.py tests/unit/test_router_channels.py tests/unit/test_gate.py tests/unit/test_tls.py tests/integration/test_attacks.py

bench: $(VENV)/installed ## FortDB beside Redis and etcd, about three minutes; the report goes to .bench/report
	@$(BIN)/python -m bench --short

bench-full: $(VENV)/installed ## The same with every load, in hours; the report goes to docs/bench
	@$(BIN)/python -m bench --full --out docs/bench

torture: $(VENV)/installed ## Break a ring in every way and judge it: make torture SECONDS=600 SEED=7 (root for all faults)
	@$(FORTDB) torture --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))

torture-short: $(VENV)/installed ## About three minutes of it
	@$(FORTDB) torture --seconds 150 $(if $(SEED),--seed $(SEED))

torture-planted: $(VENV)/installed ## Whether the torture finds what it is there to find
	@$(BIN)/python -m pytest -m torture --timeout 600 tests/torture

terraform: $(VENV)/deploy ## The Terraform module: form, validations, and applied to a simulated AWS
	terraform fmt -check -recursive terraform
	$(TERRAFORM_INIT)
	terraform -chdir=terraform validate
	terraform -chdir=terraform test
	@$(BIN)/python -m pytest -m terraform --timeout 900 tests/terraform

deploy-lint: $(VENV)/deploy $(VENV)/checkov ## Playbooks, YAML, and the security of what Terraform makes
	@cd ansible && PATH="$(CURDIR)/$(BIN):$$PATH" ansible-lint --offline
	@$(BIN)/yamllint --strict ansible inventory
	@$(VENV)/checkov/bin/checkov --quiet --compact --skip-download --config-file terraform/.checkov.yaml --directory terraform

rehearsal: $(VENV)/deploy ## The whole deployment on this machine, faults and all (root)
	@$(BIN)/python -m rehearsal run

rehearsal-up: $(VENV)/deploy ## Deploy on this machine and leave it running (root)
	@$(BIN)/python -m rehearsal up

rehearsal-down: $(VENV)/deploy ## End what rehearsal-up left
	@$(BIN)/python -m rehearsal down

ssh: $(VENV)/deploy ## Log in on a rehearsed host: make ssh HOST=node-01
	@$(BIN)/python -m rehearsal ssh $(HOST)

lint: $(VENV)/deploy ## Style, types, the one-way dependencies between rooms, and what bandit knows of
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/bandit --quiet --recursive --configfile pyproject.toml fortdb

format: $(VENV)/installed ## Put the code into its form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

tools: ## Install what the tests start besides FortDB itself (Debian and Ubuntu, as root)
	apt-get install --yes --no-install-recommends etcd-server redis-server redis-tools openssh-server openssh-client debootstrap systemd-container nftables iproute2 gcc libc6-dev python3-venv

clean: down ## Stop the ring and throw its data away
	rm -rf .fortdb
