# The verbs of this repository, the same as in .ci/run. `make` alone: before every commit.

.PHONY: all fmt lint doc man test tree deny advisories sbom fuzz-smoke bench bench-scale bench-smoke bench-instructions soak deploy pod systemd package deb image release-check ci simulate

all: fmt lint test doc

fmt:
	cargo fmt

lint:
	cargo clippy --locked --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps

# The manual, one page for each command.
man:
	cargo run --locked --release -- man target/man

test:
	tests/all

# Writes docs/tree.md from the first line of each source.
tree:
	SIDEKEY_WRITE_TREE=1 cargo test --locked --test integration tree_has_the_first_line_of_every_file

deny:
	bash -c '. tests/tools && crate cargo-deny 0.20.2 && cargo deny --locked check bans licenses sources'

# Known faults of our dependencies; where the network has their database.
advisories:
	tests/advisories

# Writes target/sidekey.cdx.json, the list of what is in the program, and checks it.
sbom:
	tests/sbom

# A few seconds for each fuzz target; needs a nightly compiler.
fuzz-smoke:
	bash -c '. tests/tools && crate cargo-fuzz 0.13.2 && for target in $$(cargo fuzz list); do \
	  cargo +nightly fuzz run "$$target" -- -max_total_time=$${SECONDS_EACH:-10} || exit 1; done'

# Sidekey beside the proxies that are installed, for a quarter of an hour; needs a quiet machine (bench/README.md).
bench:
	bench/run

# Many connections, listeners, workers and peers; needs a quiet machine too.
bench-scale:
	bench/scale

# The benchmark once and short, with debug builds; no figure is judged.
bench-smoke:
	bench/smoke

# Instructions of a request and of a handshake against bench/budget.toml; needs valgrind, and builds a release.
bench-instructions:
	bash -c '. tests/tools && debian valgrind:valgrind' && bench/instructions

# The simulator of rotations with many seeds, each printed with its figures: about an hour; by hand. FIRST and SEEDS choose them.
simulate:
	SIDEKEY_SIMULATION_FIRST=$${FIRST:-1} SIDEKEY_SIMULATION_SEEDS=$${SEEDS:-2000} \
	  cargo test --locked --lib evidence::simulation:: -- --nocapture

# Mixed traffic through a release build while it rotates; by hand.
soak:
	tests/soak

# Checks what deploy/ holds against the schemas and tools of its readers.
deploy:
	tests/deploy

# Plays pods' lives through in network namespaces.
pod:
	tests/pod/run

# Runs the units under a real systemd, in a container.
systemd:
	tests/systemd

# Builds the Debian package of a debug build, installs it in a layer over this machine, and removes it.
package:
	tests/package

# Writes target/sidekey.deb, the Debian package of a release build.
deb:
	cargo build --release --locked
	OUTPUT=target/sidekey.deb tests/package target/release/sidekey

# Builds the container image, release build and all, and runs it.
image:
	tests/image

# What a release needs beside `ci`: with the debug build the list of contents, the package, the units and every step of the
# Dockerfile; with a release build the budget of instructions.
release-check: sbom package systemd bench-instructions
	bash -c '. tests/tools && BINARY=$$(debug_program) tests/image'

ci:
	bash .ci/run
