# Aliases of documented commands; see CONTRIBUTING.md.
.PHONY: help setup demo check lint types unit unit-waits unit-rest contract docs molecule test-models test-faults bench-converge bench-door test test-all clean
.DEFAULT_GOAL := help
BIN := .venv/bin/
# Root needs no sudo; a user whose sudo wants a password is asked for it once.
ASK_SUDO = $(shell [ "$$(id -u)" = 0 ] || sudo -n true 2>/dev/null || echo --ask-become-pass)

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## .venv with the locked requirements
	@scripts/setup.sh dev

demo: ## serve a real model on this machine and ask it a question
	@scripts/setup.sh runtime
	@$(BIN)ansible-playbook -i inventory/demo playbooks/demo.yml $(ASK_SUDO)
	@cat reports/demo.txt

check: setup ## lint, types, unit and contract tests, side by side
	@scripts/check.sh unit-waits unit-rest contract lint types

lint:
	@scripts/lint.sh

types:
	$(BIN)mypy

unit:
	$(BIN)pytest -q tests/unit

# The two halves of unit for check: files whose tests wait for processes and limits more than they compute, and the others.
WAITS := $(patsubst %,tests/unit/%.py,base/test_deadline base/test_lease engine/test_checks engine/test_warmup plugins/test_callback plugins/test_live)
unit-waits:
	$(BIN)pytest -q $(WAITS)

unit-rest:
	$(BIN)pytest -q tests/unit $(addprefix --ignore=,$(WAITS))

contract:
	$(BIN)pytest -q tests/contract -m 'not engine'

docs: setup ## write docs/reference and CHANGELOG.md anew
	$(BIN)python scripts/docs.py

molecule: setup ## role scenarios: SET="changed [BASE]" (the default), chosen or all
	scripts/test.sh molecule $(or $(SET),changed)

test-models: setup ## train the small models of the tests, unless they are in the cache
	$(BIN)python -m tests.models.make

test-faults: setup ## cause every fault of docs/reference/faults.md on the demo of this machine; RESULTS=FILE keeps what came out
	$(BIN)python -m pytest -q -p tests.faults.record -m fault tests --fault-results=$(or $(RESULTS),reports/faults.json)

bench-converge: setup ## what an unchanged host costs, against a floor: wall, processor time, module processes
	@$(BIN)python benchmarks/converge.py

bench-door: setup ## what the gateway adds to the first byte of an answer, beside a stub of an engine, and its memory
	@$(BIN)python benchmarks/gateway.py

test: check ## everything that CI runs, with the chosen scenarios
	scripts/test.sh

test-all: check ## all scenarios, and what is too slow for every change as well
	scripts/test.sh all

clean: ## remove caches and reports, keep what is deployed
	rm -rf .venv .cache reports .mypy_cache .ruff_cache .pytest_cache
