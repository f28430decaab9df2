# Everything a newcomer needs: `make demo` and `make test`. The rest is for daily work.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3)
UV := .tools/bin/uv
UV_VERSION := 0.13.9
PIP_AUDIT_VERSION := 2.10.1
export UV_PYTHON_DOWNLOADS := never
# No byte of the installation depends on a cache outside of the checkout being writable.
export UV_LINK_MODE := copy

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

.PHONY: setup
setup: .venv/.ready node_modules/.ready ## Install everything into the checkout

# Debian splits venv off its Python: it is fetched where that is allowed, else asked for. Nothing
# is installed as root before a line has said so.
$(UV):
	@$(PYTHON) -m venv .tools >/dev/null 2>&1 \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
			&& echo "make: installing the package python3-venv as root, with apt-get" >&2 \
			&& apt-get install -qq -y python3-venv >/dev/null && $(PYTHON) -m venv .tools; } \
		|| { rm -rf .tools; echo "Python's venv is missing: apt-get install python3-venv" >&2; exit 1; }
	.tools/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.venv/.ready: requirements.lock pyproject.toml $(wildcard libs/*/pyproject.toml services/*/pyproject.toml worker/pyproject.toml local/pyproject.toml cli/pyproject.toml) | $(UV)
	test -x .venv/bin/python || $(UV) venv --quiet --python $(PYTHON) .venv
	$(UV) pip sync --quiet --compile-bytecode --python .venv/bin/python requirements.lock
	touch $@

node_modules/.ready: package-lock.json
	npm ci --silent --ignore-scripts
	touch $@

.PHONY: lock
lock: | $(UV) ## Resolve the Python dependencies again and pin them, with hashes
	$(UV) lock --quiet --upgrade --python $(PYTHON)
	$(UV) export --quiet --no-header --no-annotate --no-emit-project --all-groups \
		--format requirements-txt --output-file requirements.lock
	rm -f uv.lock

.PHONY: demo
demo: setup ## Run an agent's whole life cycle on this machine, with real services
	.venv/bin/webhost demo

.PHONY: up
up: setup ## Start the whole stack in the foreground
	.venv/bin/webhost up

.PHONY: test
test: setup ## Run the tests
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: test-long
test-long: setup ## Run what takes too long for every change
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "long and not quiet"
	.venv/bin/python -m pytest -m "long and quiet"
	CLOUDFLARE_DISPATCH_NAMESPACE=agents .venv/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder tests/e2e
	WEBHOST_TEST_NATS_NODES=3 .venv/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not quiet" tests/e2e

.PHONY: check
check: setup ## Lint, types, import rules, manifests, generated documents
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	npx --no-install pyright
	.venv/bin/lint-imports
	.venv/bin/python -m deploy check
	$(MAKE) --no-print-directory docs-check

SERVICES := $(notdir $(wildcard services/*))

RULES := services nats postgres certificates

# What is generated from code, and what writes each to standard output.
DOCUMENTS := docs/events.md docs/configuration.md docs/privileges.md docs/metrics.md docs/openapi.json \
	docs/asyncapi/deployer.json docs/asyncapi/billing.json .env.example \
	deploy/k8s/base/nats/accounts.conf deploy/k8s/components/postgres/roles.sql \
	deploy/k8s/components/gateway-postgres/roles.sql \
	$(RULES:%=deploy/k8s/components/monitoring/%/rules.yaml)
write-docs/events.md := webhost_contracts.catalogue
write-docs/configuration.md := webhost_kit.process.reference $(SERVICES)
write-docs/privileges.md := webhost_local.installation.privileges
write-docs/metrics.md := webhost_kit.process.metrics_reference $(SERVICES)
write-docs/openapi.json := webhost_api.openapi
write-docs/asyncapi/deployer.json := webhost_deployer.asyncapi
write-docs/asyncapi/billing.json := webhost_billing.asyncapi
write-.env.example := webhost_local.compose --example
write-deploy/k8s/base/nats/accounts.conf := webhost_local.installation.bus_accounts
write-deploy/k8s/components/postgres/roles.sql := webhost_local.installation.postgres_roles
write-deploy/k8s/components/gateway-postgres/roles.sql := webhost_local.installation.postgres_roles gateway
write-deploy/k8s/components/monitoring/services/rules.yaml := deploy.rules webhost alerts.yaml recording.yaml
write-deploy/k8s/components/monitoring/nats/rules.yaml := deploy.rules webhost-nats optional/nats.yaml
write-deploy/k8s/components/monitoring/postgres/rules.yaml := deploy.rules webhost-postgres optional/postgres.yaml
write-deploy/k8s/components/monitoring/certificates/rules.yaml := deploy.rules webhost-certificates optional/certificates.yaml

.PHONY: docs
docs: setup ## Regenerate the generated documents
	$(foreach document,$(DOCUMENTS),.venv/bin/python -m $(write-$(document)) > $(document) &&) true

.PHONY: docs-check
docs-check: setup
	$(foreach document,$(DOCUMENTS),.venv/bin/python -m $(write-$(document)) | diff -u $(document) - &&) true

.PHONY: compose-env
compose-env: setup ## Make the .env of docker-compose.yml; ENV=--production for accounts of your own
	.venv/bin/python -m webhost_local.compose $(ENV)

WEBHOST_TAG ?= local
IMAGES := api deployer gateway telemetry-ingest billing cli local origin nats
image-of = $(WEBHOST_REGISTRY)webhost-$(1):$(WEBHOST_TAG)
context-local := --build-arg SERVICE=local --build-arg EXTRA=workerd .
context-origin := deploy/origin
context-nats := --file deploy/nats/Dockerfile deploy

.PHONY: images
images: ## Build all images, for containers anywhere: WEBHOST_REGISTRY=host/team/ WEBHOST_TAG=version
	$(foreach one,$(IMAGES),docker build --tag $(call image-of,$(one)) \
		$(or $(context-$(one)),--build-arg SERVICE=$(one) .) &&) true

.PHONY: push-images
push-images: ## Push them to that registry
	@test -n "$(WEBHOST_REGISTRY)" || { echo "name a registry of yours: WEBHOST_REGISTRY=host/team/" >&2; exit 1; }
	$(foreach one,$(IMAGES),docker push $(call image-of,$(one)) &&) true

.PHONY: compose-test
compose-test: setup ## Run the demo on docker-compose.yml, and kill one container of each kind
	.venv/bin/python -m pytest -m "" tests/compose

.PHONY: compose-base
compose-base: setup ## Make stand-ins for the base images, where none can be pulled (as root)
	deploy/standins/make

.PHONY: audit
audit: setup ## Ask the registries what is known of the locked dependencies
	$(UV) tool run --quiet --python .venv/bin/python --from pip-audit==$(PIP_AUDIT_VERSION) \
		pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock
	npm audit --package-lock-only

.PHONY: bench
bench: setup ## Measure the hot paths as ratios to limits of this machine
	.venv/bin/python -m bench

.PHONY: bench-short
bench-short: setup ## Try every benchmark briefly; missed aims are only reported
	.venv/bin/python -m bench --short --report
