# What people type here. Each target installs what it needs; on Debian 12 with cargo nothing else has to be there.
target := $(or $(CARGO_TARGET_DIR),target)
tools  := eval "$$(tests/setup/env)"

.PHONY: run test demo bench check-macos fmt clippy deny docs

run:            ## runs the service on this host's store, with ARGS: make run ARGS="--config my.toml"
	@tests/setup/host-nix
	cargo build --release
	@exec $(target)/release/storewatch run $(ARGS)

test:           ## all tests, with real Nix; what had to be left out is listed at the end
	@tests/setup/all
	@rm -f $(target)/tmp/skipped
	cargo test --quiet --doc
	@if command -v cargo-nextest >/dev/null; then set -x; cargo nextest run; else set -x; cargo test --no-fail-fast --lib --bins --tests; fi
	@cat $(target)/tmp/skipped 2>/dev/null || true

demo:           ## the whole way on a scratch store, in under a minute
	@tests/setup/all
	cargo build --release
	@tests/demo $(target)/release/storewatch

bench:          ## the figures of docs/benchmarks.md, on this machine
	@tests/setup/all
	@tests/setup/rclone
	$(tools) && cargo bench

check-macos:    ## type-checks for macOS, with FSEvents and with kqueue
	tests/check-macos --all-targets
	tests/check-macos --all-targets --features macos_kqueue

fmt:            ## fails where cargo fmt would change something
	cargo fmt --check

clippy:
	cargo clippy --all-targets -- -D warnings

deny:           ## licences and sources of all dependencies
	@tests/setup/cargo-deny
	$(tools) && cargo deny check --hide-inclusion-graph licenses bans sources

docs:
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items
