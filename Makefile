# Everything that a developer runs. `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help

IMAGE      ?= anchord:dev
BASE_IMAGE ?=

GOLANGCI    = go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.6.2
UNIT        = . ./cmd/... ./exec ./templates ./watch ./test/fakedocker ./test/docs ./test/hooks ./test/peer/... ./test/script ./test/told/...

# Some distributions have a Go that fetches no newer one unless it is told to.
export GOTOOLCHAIN := $(shell scripts/toolchain)

# Where `make test` has its suites note the events that they see logged.
EVENTS_SEEN = $(CURDIR)/.events-seen

.PHONY: help
help: ## List what there is
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## See it work: a LAN, an engine, a project on it (KEEP=1 leaves it up, in place of an earlier one)
	@scripts/demo $(if $(KEEP),-keep)

.PHONY: demo-down
demo-down: ## Remove what `make demo KEEP=1` left up
	@scripts/demo -down

.PHONY: test
test: ## All tests, and that together they have seen every event
	@scripts/ready 'make test' lab
	rm -f '$(EVENTS_SEEN)'
	ANCHORD_EVENTS_SEEN='$(EVENTS_SEEN)' $(MAKE) unit contrib release-test netns e2e
	go run ./test/told/untold '$(EVENTS_SEEN)'

.PHONY: unit
unit: ready ## Tests without a network: domain, rendering, scripted runs
	scripts/gotest pkgname -timeout 10m $(UNIT)

.PHONY: contrib
contrib: ready ## Tests of the alert rules and the dashboard, with promtool and Loki's parser
	scripts/gotest pkgname -timeout 5m ./test/contrib
	cd contrib/loki/check && go test -count=1 .

.PHONY: release-test
release-test: ready ## A release is made twice: the same bytes, static, stamped
	scripts/gotest pkgname -timeout 15m ./test/release

.PHONY: netns
netns: lab ## Tests with real nft, ip, conntrack and DHCP in namespaces, no Docker
	scripts/gotest pkgname -timeout 15m ./test/netns

.PHONY: e2e
e2e: lab ## Tests with real engines (20.10, 28 and 29)
	scripts/gotest standard-verbose -p 1 -timeout 60m ./test/lab ./test/e2e

.PHONY: bench
bench: lab ## Measure latency, loss, throughput and idle cost
	go run ./test/bench

.PHONY: golden
golden: ## Write anew what is made from the code: golden files, parts of docs/
	go test . ./cmd/anchord ./cmd/anchord/adopt ./templates -update

.PHONY: picture
picture: lab ## Draw docs/img/dashboard.svg anew, from a run of five minutes
	go test -count=1 -run '^TestDashboard$$' ./test/netns -args -picture '$(CURDIR)/docs/img/dashboard.svg'

.PHONY: build
build: ## Build bin/anchord
	scripts/build bin/anchord

.PHONY: release
release: ## Build what a release consists of, for all platforms, in dist/
	rm -rf dist
	scripts/release dist

.PHONY: image
image: ## Build the image into docker's current host (IMAGE=name:tag BASE_IMAGE=…)
	scripts/image '$(IMAGE)' '$(BASE_IMAGE)'

.PHONY: lint
lint: ready ## gofumpt, vet, golangci-lint with the import rules, shellcheck
	go vet ./...
	$(GOLANGCI) run
	$(GOLANGCI) fmt --diff
	PATH="$$PATH:$$(scripts/deps lint)" shellcheck $$(git ls-files scripts rootfs .ci | xargs grep -lE '^#!.*sh$$') test/lab/testdata/fresh-machine.sh

.PHONY: ready
ready: # Say what is missing before anything else happens
	@scripts/ready 'make $(firstword $(MAKECMDGOALS))'

.PHONY: lab
lab: # The same for what makes labs; and fetch programs now, when one sees it
	@scripts/ready 'make $(firstword $(MAKECMDGOALS))' lab
	@scripts/deps test >/dev/null
