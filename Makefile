# make run   a demonstration on this machine        make test    everything that must hold
# make test TESTS_DATABASE=postgresql   the same on PostgreSQL, but what is of SQLite alone
# make check style, types and Rego, no tests         make bench   calls per second, in one run
# make profile   where the processor time of a call goes, step by step, and what the next limit is
# make bench-scale  what grows with agents, servers, rules, policies, records and replicas: an hour
# make bench-peers  beside other gateways, each installed into a virtual environment of its own
# make soak  memory, under streams and sessions
# make faults   thirty kills at random under load, and every other fault that there is a test for
# make fuzz   EXAMPLES=100 requests of each kind that nobody thought of, which takes long,
#             then SECONDS=60 of bytes for each parser
# make install  what `run` needs                     make lock    pin the dependencies anew
# make sbom     what is in it, as CycloneDX          make release KEY=FILE   built and signed
# make audit SNAPSHOT=all.zip   known vulnerabilities of what is pinned, from a file

.DEFAULT_GOAL := run
.PHONY: audit faults fuzz run install test check conformance bench bench-scale bench-peers \
  profile release sbom lock lock-peers packages python screenshots soak
.DELETE_ON_ERROR:

PYTHON ?= python3
# What the tests keep their data in: nothing, for SQLite, or postgresql.
TESTS_DATABASE ?=
export TESTS_DATABASE
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
OPA = $$($(BIN)/python -c 'from gateway.policy.opa_binary import find; print(find())')

run: install
	@$(BIN)/python -m gateway demo

# Where Python is told to write no bytecode, each start would compile all of it anew, for a second.
install: .venv/.installed
	@$(BIN)/python -m compileall -q gateway
	@$(BIN)/python -m gateway opa install

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or later is needed, and $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	    "Name another one: make PYTHON=python3.12" >&2; exit 1; }

# The stamps are what makes a second run need no network.
.venv/.installed: requirements.lock pyproject.toml | python
	@echo "Installing the locked dependencies into .venv"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { \
	  echo "Python's venv module does not work; on Debian: apt-get install python3-venv" >&2; \
	  rm -rf .venv; exit 1; }
	@$(PIP) install --require-hashes --requirement requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.dev: requirements-dev.lock .venv/.installed
	@echo "Installing what the tests need into .venv"
	@$(PIP) install --no-deps --require-hashes --requirement requirements-dev.lock
	@touch $@

# The servers and tools that tests talk to. Elsewhere than on Debian, or without being root, a test
# whose program is missing says which one it is and how to get it.
packages:
	@missing=; \
	for pair in nginx:nginx wrk:wrk node:nodejs npm:npm go:golang-go curl:curl \
	  chromium:chromium openssl:openssl bwrap:bubblewrap systemd-analyze:systemd \
	  ssh-keygen:openssh-client; do \
	  command -v "$${pair%%:*}" >/dev/null || missing="$$missing $${pair##*:}"; \
	done; \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$$missing postgresql"; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing$$missing"; \
	  apt-get -qq update && \
	  DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends $$missing >/dev/null; \
	fi

# The local chain and the contract's compiler, by the lock file's hashes; no script of theirs runs.
tests/node/node_modules/.package-lock.json: tests/node/package-lock.json
	@if command -v npm >/dev/null; then \
	  echo "Installing a local chain and the contract's compiler into tests/node"; \
	  npm ci --prefix tests/node --ignore-scripts --no-audit --no-fund --loglevel error; \
	fi

# Tests look for programs on PATH; the pinned OPA may be elsewhere. The longest files come first,
# or one process would be left with them at the end. Tests with real servers wait much of their
# time: one process more than there are cores.
test: packages install check tests/node/node_modules/.package-lock.json
	@PATH="$$(dirname "$(OPA)"):$$PATH" $(BIN)/python -m pytest \
	  --numprocesses $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
	  tests/end_to_end tests/conformance tests

check: install .venv/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@"$(OPA)" fmt --list --fail rego connector_templates
	@"$(OPA)" check --strict --schema rego/schemas --capabilities rego/capabilities.json \
	  rego connector_templates
	@report=$$("$(OPA)" test --coverage --threshold 100 --timeout 60s \
	  rego connector_templates) || { echo "$$report"; exit 1; }

conformance: packages install .venv/.dev
	@PATH="$$(dirname "$(OPA)"):$$PATH" $(BIN)/python -m pytest \
	  --numprocesses 2 --dist loadfile tests/conformance

bench: packages install .venv/.dev tests/node/node_modules/.package-lock.json
	@PATH="$$(dirname "$(OPA)"):$$PATH" $(BIN)/python -m benchmarks.calls
	@PATH="$$(dirname "$(OPA)"):$$PATH" $(BIN)/python -m benchmarks.policies
	@PATH="$$(dirname "$(OPA)"):$$PATH" $(BIN)/python -m benchmarks.stop
	@PATH="$$(dirname "$(OPA)"):$$PATH" $(BIN)/python -m benchmarks.stop --gateways 2
	@PATH="$$(dirname "$(OPA)"):$$PATH" $(BIN)/python -m benchmarks.stop --gateways 2 --without-notify
	@$(BIN)/python -m benchmarks.telemetry
	@PATH="$$(dirname "$(OPA)"):$$PATH" $(BIN)/python -m benchmarks.evidence
	@$(BIN)/python -m benchmarks.anchors
	@$(BIN)/python -m benchmarks.cold
	@$(BIN)/python -m benchmarks.dashboard
	@PATH="$$(dirname "$(OPA)"):$$PATH" $(BIN)/python -m benchmarks.copilot_studio

# PROFILE='--seconds 10 --connections 64'
profile: packages install .venv/.dev
	@PATH="$$(dirname "$(OPA)"):$$PATH" $(BIN)/python -m benchmarks.profile $(PROFILE)

# SCALE='--only traces,agents --folder DIR' or SCALE=--quick; it takes 12 GB of disk without that.
bench-scale: packages install .venv/.dev
	@PATH="$$(dirname "$(OPA)"):$$PATH" $(BIN)/python -m benchmarks.scale $(SCALE)

# PEERS='--folder DIR' keeps what is installed; --url NAME=URL measures what runs already.
bench-peers: packages install .venv/.dev
	@PATH="$$(dirname "$(OPA)"):$$PATH" $(BIN)/python -m benchmarks.peers.compare $(PEERS)

# Takes about three minutes; it looks at the memory of a process in /proc.
soak: packages install .venv/.dev
	@PATH="$$(dirname "$(OPA)"):$$PATH" $(BIN)/python -m benchmarks.soak

faults: packages install .venv/.dev
	@PATH="$$(dirname "$(OPA)"):$$PATH" FAULT_ROUNDS=30 $(BIN)/python -m pytest tests/faults

# Atheris has wheels for Linux; what it finds is under dist/fuzz.
SECONDS ?= 60
EXAMPLES ?= 100

.venv/.fuzz: requirements-fuzz.lock .venv/.dev
	@$(PIP) install --no-deps --require-hashes --requirement requirements-fuzz.lock
	@touch $@

fuzz: packages install .venv/.dev .venv/.fuzz
	@PATH="$$(dirname "$(OPA)"):$$PATH" FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest tests/fuzz
	@for target in envelope http1 sse params; do \
	  $(BIN)/python -m tests.fuzz $$target -max_total_time=$(SECONDS) || exit 1; \
	done

# Pictures of the dashboard for the docs, from a demonstration of its own.
screenshots: packages install .venv/.dev
	@PATH="$$(dirname "$(OPA)"):$$PATH" $(BIN)/python -m tests.end_to_end.screenshots docs/images

# From the lock alone: nothing is asked of a network, and the same lock gives the same bytes.
sbom: .venv/.dev
	@mkdir -p dist
	@$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
	  --spec-version 1.6 --output-file dist/sbom.cdx.json requirements.lock
	@echo "dist/sbom.cdx.json"

# The same bytes whoever builds them, and signed by who releases them.
KEY ?=
release: sbom
	@deploy/release.sh $(BIN)/python "$(KEY)" dist/sbom.cdx.json dist/release

# Asks no network: the snapshot is OSV's archive for PyPI, or advisories of that form.
audit: .venv/.dev
	@$(BIN)/python -m tests.audit "$(SNAPSHOT)" requirements.lock deploy/requirements.lock \
	  requirements-dev.lock

lock:
	@command -v uv >/dev/null || { echo "uv is needed to resolve: pip install uv" >&2; exit 1; }
	@uv pip compile pyproject.toml --extra demo --group build --output-file requirements.lock $(LOCK)
	@uv pip compile pyproject.toml --extra demo --group build --group dev \
	  --constraint requirements.lock --output-file requirements-dev.lock $(LOCK)
	@uv pip compile --group pyproject.toml:fuzz --output-file requirements-fuzz.lock $(LOCK)
	@uv pip compile pyproject.toml $(IMAGE) --group build --constraint requirements-dev.lock \
	  --output-file deploy/requirements.lock $(LOCK)

lock-peers:
	@for peer in fastmcp contextforge; do \
	  uv pip compile benchmarks/peers/$$peer.in --output-file benchmarks/peers/$$peer.lock \
	    $(subst make lock,make lock-peers,$(LOCK)) || exit 1; \
	done

# What the container's image can do: all but the demonstration.
IMAGE := --extra postgresql --extra s3 --extra otlp --extra flare --extra timestamps

# One lock for every platform, and no address of a registry in it.
LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
  --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"
