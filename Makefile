# Everything that a developer runs. `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo development)
COMMIT  ?= $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
LDFLAGS  = -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

IMAGE      ?= anchord:dev
BASE_IMAGE ?=

GOTEST      = go test -count=1
GOLANGCI    = go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.6.2
UNIT        = . ./cmd/... ./exec ./templates ./watch ./test/fakedocker ./test/hooks ./test/peer/... ./test/script

.PHONY: help
help: ## List what there is
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: deps ## See it work: a LAN, an engine, a project on it (KEEP=1 leaves it up, in place of an earlier one)
	go run ./test/demo $(if $(KEEP),-keep)

.PHONY: demo-down
demo-down: ## Remove what `make demo KEEP=1` left up
	go run ./test/demo -down

.PHONY: test
test: deps unit netns e2e ## All tests: unit, netns and e2e

.PHONY: unit
unit: deps ## Tests without a network: domain, rendering, scripted runs
	$(GOTEST) -timeout 10m $(UNIT)

.PHONY: netns
netns: deps ## Tests with real nft, ip, conntrack and DHCP in namespaces, no Docker
	$(GOTEST) -timeout 15m ./test/netns

.PHONY: e2e
e2e: deps ## Tests with real engines (20.10 and 28)
	$(GOTEST) -v -p 1 -timeout 60m ./test/lab ./test/e2e

.PHONY: bench
bench: deps ## Measure latency, loss, throughput and idle cost
	go run ./test/bench

.PHONY: golden
golden: ## Write the golden files anew
	go test ./templates ./cmd/anchord -update

.PHONY: docs
docs: ## Write the parts of docs/ that the code says
	go test ./templates -run TestDocs -update

.PHONY: build
build: ## Build bin/anchord
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/anchord ./cmd/anchord

.PHONY: image
image: ## Build the image into docker's current host (IMAGE=name:tag BASE_IMAGE=…)
	scripts/image '$(IMAGE)' '$(BASE_IMAGE)'

.PHONY: lint
lint: deps ## gofumpt, vet, golangci-lint with the import rules, shellcheck
	go vet ./...
	$(GOLANGCI) run
	$(GOLANGCI) fmt --diff
	shellcheck $$(git ls-files scripts rootfs .ci | xargs grep -lE '^#!.*sh$$')

.PHONY: deps
deps: # Install what is missing of the distribution's packages
	@scripts/deps
