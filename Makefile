# Holdfast. `make help` lists the targets.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
BIN     := bin

# The race detector needs a C compiler. Without one the tests run all the same.
CC_PATH := $(shell command -v $${CC:-cc} 2>/dev/null)
RACE    := $(if $(CC_PATH),-race,)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## watch Holdfast do its main job on real Flink (KEEP=1 leaves it running)
	@go run ./test/demo $(if $(KEEP),--keep)

.PHONY: build
build: ## build all programs into bin/
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ $(filter-out ./cmd/holdfast-agent,$(wildcard ./cmd/holdfast*))
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -tags grpcnotrace -o $(BIN)/ ./cmd/holdfast-agent

.PHONY: image
image: ## the container image, without an engine: OUT=FILE (bin/image.tar) or PUSH=registry/name:tag
	cd tools && go run ./image --root .. --version '$(VERSION)' $(if $(OUT)$(PUSH),,--out $(abspath $(BIN))/image.tar) \
	  $(if $(OUT),--out '$(abspath $(OUT))') $(if $(PUSH),--push '$(PUSH)')

.PHONY: test
test: ## run everything that needs only Go, with the race detector
	$(if $(RACE),,@echo 'note: no C compiler, so no race detector')
	go test $(RACE) -timeout 20m ./...
	cd tools && go test -timeout 20m ./...
	$(MAKE) --no-print-directory test-chart

# The chart is not of the test's module, so go test would not notice that it has changed, and show an earlier result: hence -count 1.
.PHONY: test-chart
test-chart: ## render the Helm chart with every combination of values, and check what comes out (part of test)
	cd test/chart && go test -count 1 -timeout 20m ./...

.PHONY: sim
sim: ## run the simulated world for a minute, or N schedules, from SEED on
	go test -count 1 -timeout 0 ./sim -run TestSchedules -v -args -schedules $(or $(N),0) -seed $(or $(SEED),1)

.PHONY: mutants
mutants: ## plant known bugs one by one, and see a test notice each (ONLY=expression)
	go run ./test/mutants $(if $(ONLY),-only '$(ONLY)')

.PHONY: test-flink
test-flink: ## run the product against real Flink processes (fetches Flink, and Java if it can)
	go test -tags flink -timeout 60m -count 1 -p 2 ./test/flink/...

.PHONY: test-kubernetes
test-kubernetes: ## boot a real Kubernetes node, install the chart with helm, and break it (as root; or on the cluster of KUBECONFIG)
	go test -tags kubernetes -timeout 60m -count 1 -p 2 -run '^TestReal' ./kube ./webhook/certs
	go test -tags kubernetes -timeout 90m -count 1 -p 1 -parallel 3 ./test/kubernetes/...

.PHONY: soak
soak: ## real faults in random order on a real node, for T=1h; it ends with a table (as root)
	HOLDFAST_TEST_SOAK=$(or $(T),1h) go test -tags kubernetes -timeout 0 -count 1 -run '^TestFaults$$' -v ./test/kubernetes/product

.PHONY: bench
bench: ## measure what docs/benchmarks.md reports
	go test -run '^$$' -bench . -benchmem ./settle
	go test -count 1 -run 'TestOneJobIsServedAlmostAsFastAsFromMemory' -v ./aggregator/api
	go run ./bench

.PHONY: lint
lint: ## vet, staticcheck and gofmt
	@test -z "$$(gofmt -l .)" || { echo 'gofmt these files:'; gofmt -l .; exit 1; }
	go vet ./...
	go vet -tags flink,kubernetes ./test/... ./webhook/... ./kube/...
	go tool -modfile tools/go.mod staticcheck -tags flink,kubernetes ./...
	cd tools && go vet ./... && go tool staticcheck ./...
	cd test/chart && go vet ./... && go tool -modfile ../../tools/go.mod staticcheck ./...

.PHONY: clean
clean: ## remove what was built
	rm -rf $(BIN)
