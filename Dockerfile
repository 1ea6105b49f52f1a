# Both bases are arguments, so that a site can put its own mirror, or its own base, in their place. The program is linked
# statically (docs/decisions/0040), so RUNTIME needs neither a libc nor a shell.
ARG BUILDER=rust:1.95.0-bookworm
ARG RUNTIME=gcr.io/distroless/static-debian12:nonroot

FROM ${BUILDER} AS build
WORKDIR /src
# Applies to the program alone and not to build scripts, since `--target` is named below.
ENV RUSTFLAGS="-C target-feature=+crt-static"
# The dependencies first: this layer is built again only when Cargo.toml, Cargo.lock or the settings change.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
RUN mkdir -p src tests/integration \
 && echo 'fn main() {}' > src/main.rs \
 && cp src/main.rs tests/integration/main.rs \
 && : > src/lib.rs \
 && cargo build --release --locked --target "$(rustc --print host-tuple)" \
 && rm -r src
COPY src src
# `touch`, since cargo goes by time and a checkout may be older than the layer above.
# Without line tables (104 MB to 22), with the names of functions (2 of the 22), which a panic's backtrace shows.
RUN touch src/main.rs src/lib.rs \
 && cargo build --release --locked --target "$(rustc --print host-tuple)" \
 && mkdir -p /out/certs /out/state \
 && strip --strip-debug -o /out/sidekey "target/$(rustc --print host-tuple)/release/sidekey"

FROM ${RUNTIME}
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="Sidekey" \
      org.opencontainers.image.description="A mutual-TLS proxy sidecar that keeps the old and the new key pair valid together while it rotates them" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/sidekey /usr/local/bin/sidekey
# Before VOLUME: what a volume is made from keeps its owner.
COPY --from=build --chown=65532:65532 /out/certs /certs
COPY --from=build --chown=65532:65532 /out/state /state
ENV SIDEKEY_CERTS=/certs \
    SIDEKEY_STATE=/state \
    SIDEKEY_PROBES=[::]:9901
VOLUME ["/certs", "/state"]
EXPOSE 8443 9901
USER 65532:65532
STOPSIGNAL SIGTERM
# Not healthy is not dead: until there is a key pair, a sidecar waits, and says for what.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/usr/local/bin/sidekey", "wait", "--timeout", "2"]
ENTRYPOINT ["/usr/local/bin/sidekey"]
CMD ["run"]
