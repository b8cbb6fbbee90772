# Builds, tests and measures vmstream. `make` alone lists the targets.

GO       ?= go
PREFIX   ?= /usr/local
CLASSIC  ?= 0
FUZZTIME ?= 60s
BENCH    ?=
ARGS     ?=
RACEFLAGS ?=
RACEPKGS  ?= ./...
CHECKS   ?= 20000

BIN   := bin
TOOLS := $(BIN)/tools

# The tools are pinned here and not in go.mod: whoever uses a package of this
# module has no need of what they depend on.
GOFUMPT_VERSION     := v0.12.0
STATICCHECK_VERSION := v0.8.2
PROTOC_GEN_GO_VERSION      := v1.36.12
PROTOC_GEN_GO_GRPC_VERSION := v1.6.2

# Servers that the tests of the S3 sink run. MinIO's module has no tags that Go takes
# for versions.
VERSITYGW_VERSION := v1.8.0
MINIO_VERSION     := v0.0.0-20260212201848-7aac2a2c5b7c

gofumpt     := $(TOOLS)/gofumpt-$(GOFUMPT_VERSION)
staticcheck := $(TOOLS)/staticcheck-$(STATICCHECK_VERSION)
protocgengo := $(TOOLS)/protoc-gen-go-$(PROTOC_GEN_GO_VERSION)
protocgengrpc := $(TOOLS)/protoc-gen-go-grpc-$(PROTOC_GEN_GO_GRPC_VERSION)
versitygw   := $(TOOLS)/versitygw-$(VERSITYGW_VERSION)
minio       := $(TOOLS)/minio-$(MINIO_VERSION)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help build plugins proto install demo e2e e2e-all test lab lint race check bench matrix fuzz soak tools s3-server s3-servers clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Settings: PREFIX, DESTDIR, CLASSIC=1 for vmsnap, vmres, addredo and vmkfstools (install), FUZZTIME, FUZZ, FUZZPKG (fuzz), CHECKS (soak), BENCH (flags of bench), ARGS (flags of go test)"

build: ## bin/vmstream, a static program
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN)/vmstream ./cmd/vmstream

plugins: ## bin/vmstream-sink-*, the built-in sinks as programs of their own
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN)/ ./plugins/vmstream-sink-...

proto: $(protocgengo) $(protocgengrpc) ## generate the code of plugins/proto, with protoc of Debian's protobuf-compiler
	scripts/proto.sh $(protocgengo) $(protocgengrpc)

install: build plugins ## install program, sinks, man pages and completions under PREFIX
	GO='$(GO)' PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' CLASSIC='$(CLASSIC)' scripts/install.sh

demo: build ## back a small VM up, restore it with stock tools and with vmstream, compare
	VMSTREAM=$(BIN)/vmstream scripts/demo.sh

e2e: build s3-server ## full cycles under real backup software and on an S3 server, which are installed if they are missing
	GO='$(GO)' VMSTREAM_E2E_PROGRAM='$(CURDIR)/$(BIN)/vmstream' scripts/e2e.sh 1 $(ARGS)

e2e-all: build s3-servers ## the same, with what takes long, on two S3 servers
	GO='$(GO)' VMSTREAM_E2E_PROGRAM='$(CURDIR)/$(BIN)/vmstream' scripts/e2e.sh all $(ARGS)

test: ## the test suite
	$(GO) test -timeout 30m $(ARGS) ./...

lab: ## the tests of LUNs and tapes in guests with real disk and tape drivers, LUNs, drives and a changer; needs QEMU and mtx
	scripts/guest-kernel.sh
	VMSTREAM_LAB=1 $(GO) test -count=1 -timeout 30m -run 'Lab$$' -v $(ARGS) ./scsi ./sinks/tape ./internal/pipeline ./internal/command

lint: tools ## format, vet, staticcheck, go.mod
	@out=$$($(gofumpt) -l .); if [ -n "$$out" ]; then echo "not formatted as gofumpt does it:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(staticcheck) ./...
	$(GO) mod tidy -diff

race: ## the test suite with the race detector
	$(GO) test -race $(RACEFLAGS) $(RACEPKGS)

check: lint race ## everything that must be clean before a change is merged

bench: build s3-server ## measure vmstream beside the tools that a user would pick instead
	$(GO) run ./internal/bench -vmstream $(BIN)/vmstream -s3-server $(versitygw) $(BENCH)

matrix: ## damage streams in every way and print what was detected
	VMSTREAM_MATRIX=full $(GO) test ./stream -run Matrix -v -count=1 -timeout 60m

fuzz: ## run every fuzz target for FUZZTIME
	GO='$(GO)' FUZZTIME='$(FUZZTIME)' scripts/fuzz.sh

soak: ## run the property tests on CHECKS random histories
	GO='$(GO)' RAPID_CHECKS='$(CHECKS)' scripts/soak.sh

tools: $(gofumpt) $(staticcheck) ## install the pinned linters into bin/tools

s3-server: $(versitygw) ## install the S3 server that the tests run into bin/tools

s3-servers: $(versitygw) $(minio) ## the same, and a second one that takes some minutes to build

$(gofumpt):
	scripts/tool.sh mvdan.cc/gofumpt $(GOFUMPT_VERSION) $@

$(staticcheck):
	scripts/tool.sh honnef.co/go/tools/cmd/staticcheck $(STATICCHECK_VERSION) $@

$(protocgengo):
	scripts/tool.sh google.golang.org/protobuf/cmd/protoc-gen-go $(PROTOC_GEN_GO_VERSION) $@

$(protocgengrpc):
	scripts/tool.sh google.golang.org/grpc/cmd/protoc-gen-go-grpc $(PROTOC_GEN_GO_GRPC_VERSION) $@

$(versitygw):
	scripts/tool.sh github.com/versity/versitygw/cmd/versitygw $(VERSITYGW_VERSION) $@

$(minio):
	scripts/tool.sh github.com/minio/minio $(MINIO_VERSION) $@

clean: ## remove what was built
	rm -rf $(BIN) out
