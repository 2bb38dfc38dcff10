# Everything that a developer and CI run. `make` alone prints this list.
export CGO_CFLAGS ?= -Wno-deprecated-declarations
BUF          := go run github.com/bufbuild/buf/cmd/buf@v1.60.0
GOFUMPT      := go run mvdan.cc/gofumpt@v0.12.0
STATICCHECK  := go run honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOLANGCI     := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
VERSION      := $(shell git describe --always --dirty 2>/dev/null || echo dev)
LDFLAGS      := -X github.com/penstock/penstock/cli.version=$(VERSION)
FUZZTIME     ?= 20s
BENCH        ?= all
TRACE        ?= $(wildcard ../shared/traces/mooncake_conversation.jsonl)
.DEFAULT_GOAL := help

.PHONY: help build demo test test-slow test-slurm test-nomad fmt check race fuzz bench lint generate golden clean needs needs-slow

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/penstock
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/penstock ./cli/penstock

demo: build ## show the product on this machine with the simulated engine, in under two minutes
	@go run ./tests/demo -penstock bin/penstock

needs: ## install what the tests need (with apt, as root)
	@tests/needs.sh

needs-slow:
	@tests/needs.sh slow

test: needs build ## every suite that takes seconds, about ten minutes in all
	@go run ./tests/suites

test-slow: needs-slow build ## race detector, fault tables, the real parts that take minutes
	@go run ./tests/suites -slow

test-slurm: needs-slow build ## every fault on a real Slurm of three releases (about an hour)
	@go run ./tests/suites -slurm

test-nomad: build ## Nomad: the fake, and a real one that NOMAD_ADDR, or a binary that NOMAD_BIN, names
	@go run ./tests/suites -nomad -v

fmt: ## gofumpt on everything that is not generated
	$(GOFUMPT) -w $$(git ls-files "*.go" | grep -v -E "\.(pb|connect)\.go$$")

check: ## format, vet, staticcheck, go.mod tidy, layers
	@test -z "$$($(GOFUMPT) -l $$(git ls-files '*.go' | grep -v -E '\.(pb|connect)\.go$$'))" || { echo "gofumpt: run make fmt; it would change:"; $(GOFUMPT) -l $$(git ls-files '*.go' | grep -v -E '\.(pb|connect)\.go$$'); exit 1; }
	go vet ./...
	$(STATICCHECK) ./...
	go mod tidy -diff
	go test ./tests

race: ## all package tests under the race detector
	@go run ./tests/suites -slow -only race

fuzz: ## every fuzz target for FUZZTIME (default 20s)
	@tests/fuzz.sh $(FUZZTIME)

bench: build ## figures: BENCH name value unit reference ref_value ratio; BENCH=gateway,route,... for parts; TRACE=FILE of prompts
	@go run ./tests/bench -penstock bin/penstock -only $(BENCH) $(if $(TRACE),-trace $(TRACE))

lint: ## golangci-lint (minutes at first)
	$(GOLANGCI) run ./...

generate: ## protobuf and Connect code
	$(BUF) generate

golden: ## rewrite golden files; the diff is the review
	go test ./jobspecs/... ./scheduler/plan/... ./scheduler/identity/... ./cli/... -update

clean: ## remove what make made
	rm -rf bin dist tests/.cache tests/openai/node_modules
