# Every step is a script in scripts/; this file only says what must come before what.
# Stamps live in .venv/stamps, so a second run starts in seconds and `make clean` forgets all of them.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory --no-builtin-rules

STAMPS := .venv/stamps
DATAPLANE := gateway/dataplane
PACKAGES := pyproject.toml constraints.txt scripts/prepare scripts/install scripts/requirements
RUST := $(shell find $(DATAPLANE) -name target -prune -o -type f \
          \( -name '*.rs' -o -name 'Cargo.*' -o -name '*.binpb' -o -name '*.profdata' \) -print)

.PHONY: help
help:
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | \
	  while IFS='|' read -r target text; do printf '%-24s %s\n' "$$target" "$$text"; done

# What is to be installed while Rust compiles, beside what `make run` needs.
test check: EXTRAS := test

.PHONY: run
run: $(STAMPS)/extension $(STAMPS)/examples ## build everything, train the example models, start Triton and the gateway
	@exec .venv/bin/stagegate up --config examples/stagegate.yaml

.PHONY: test
test: $(STAMPS)/extension $(STAMPS)/test ## all tests: Rust, the wheel in an empty environment, Python with a real Triton
	@scripts/test

.PHONY: check
check: $(STAMPS)/extension $(STAMPS)/check ## formatting, lint, types, import directions, extension stub, generated files, 20 s of fuzzing
	@scripts/check

.PHONY: generate
generate: $(STAMPS)/check ## make the generated files anew after a change in protos/ or the configuration
	@scripts/generate

.PHONY: fuzz
fuzz: ## ten minutes of changed messages and connections, with a new seed each time
	@scripts/fuzz --seconds 600 --seed $$RANDOM

.PHONY: conformance
conformance: $(STAMPS)/extension ## HTTP/2 conformance of the inference port by h2spec, where Go is
	@scripts/conformance

.PHONY: bench
bench: $(STAMPS)/extension ## CPU per proxied request beside nginx, HAProxy and Envoy (minutes)
	@scripts/bench

.PHONY: bench-instructions
bench-instructions: $(STAMPS)/run ## instructions per request of the data plane under callgrind, against the baseline
	@scripts/bench-instructions

.PHONY: profile
profile: $(STAMPS)/test ## what is hot in the data plane, recorded anew for release builds by this rustc (minutes)
	@scripts/rust .venv/bin/python -m loadtest.bench.profile

.PHONY: clean
clean: ## remove all that was built, installed or trained here
	rm -rf .venv .tools build dist *.egg-info $(DATAPLANE)/target gateway/_dataplane*.so examples/models examples/data
	rm -rf examples/.stagegate .stagegate
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache bench-results
	find gateway router protos examples loadtest tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMPS)/venv: scripts/venv
	@scripts/venv
	@mkdir -p $(@D) && touch $@

$(STAMPS)/run: $(STAMPS)/venv $(PACKAGES)
	@scripts/prepare $(EXTRAS)
	@touch $@

$(STAMPS)/test: $(STAMPS)/run
	@scripts/install test
	@touch $@

$(STAMPS)/check: $(STAMPS)/test
	@scripts/install dev
	@touch $@

$(STAMPS)/extension: $(STAMPS)/run $(RUST) scripts/build
	@scripts/build
	@touch $@

$(STAMPS)/examples: $(STAMPS)/run examples/train.py
	@scripts/train
	@touch $@
