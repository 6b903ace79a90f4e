# Two commands are enough: `make run` serves on 127.0.0.1:7379, `make test` runs every test.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run build test test-long lint bench docker clean

# Where rustup puts cargo, for shells that have not heard of it yet.
export PATH := $(PATH):$(HOME)/.cargo/bin
CARGO ?= cargo
# Where `make run` listens.
LISTEN ?= 127.0.0.1:7379

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

run: ## Install what is missing, build the release, serve with the embedded upstream
	@scripts/setup-run.sh
	$(CARGO) build --release --locked
	@exec ./target/release/lockgate serve --hint --listen $(LISTEN)

build: ## Build the release
	@scripts/setup-rust.sh
	$(CARGO) build --release --locked

test: ## Install what the tests need, run all of them
	@scripts/setup-tests.sh
	$(CARGO) test --locked

# How much `make test-long` plays.
DAYS ?= 20000
LIVES ?= 1000000
MINUTES ?= 30
CONVERSATIONS ?= 100000
# So many changes of the scripts, and as many of the Rust code, that the proofs must notice; another seed draws others.
MUTANTS ?= 6
MUTANTS_SEED ?= 1

test-long: ## The long form: Redis' own suite and redis-py's tests through Lockgate, many lives, days and histories; hours
	@scripts/setup-tests.sh
	@scripts/setup-suites.sh
	@scripts/setup-mutants.sh
	$(CARGO) build --release --locked
	tests/suites/compare.sh target/suites/shared target/release/lockgate
	DIRECT=target/suites/shared/direct EXPECTED=/dev/null LOCKGATE_LINKS__SHARED=0 \
		tests/suites/compare.sh target/suites/relay target/release/lockgate
	DIFF_CONVERSATIONS=$(CONVERSATIONS) $(CARGO) test --release --locked --test differential random
	LOCKGATE_SEEDS=$(LIVES) $(CARGO) test --release --locked --lib locks::simulation
	LOCKGATE_DAYS=$(DAYS) $(CARGO) test --release --locked --lib proxy::simulation
	LOCKGATE_HISTORY_MINUTES=$(MINUTES) $(CARGO) test --release --locked --test histories
	tests/mutants/run lua --sample $(MUTANTS) --seed $(MUTANTS_SEED)
	tests/mutants/run rust --sample $(MUTANTS) --seed $(MUTANTS_SEED)

lint: ## rustfmt and clippy, warnings as errors
	@scripts/setup-rust.sh
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

bench: ## Measure side by side with direct Redis, HAProxy and twemproxy, and what locks cost; writes docs/benchmarks.md
	@scripts/setup-bench.sh
	$(CARGO) build --release --locked
	@bench/run
	@bench/locks --docs

docker: ## Build the container image
	docker build -t lockgate .

clean: ## Remove what was built and installed here (data folders stay)
	$(CARGO) clean
	rm -rf tests/clients/node/node_modules
