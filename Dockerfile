# Two images: `lockgate` (the default) carries a redis-server and so also works alone, with the embedded upstream;
# `--target bare` leaves it out, for those who always set LOCKGATE_UPSTREAM.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
# The dependencies first, against an empty program: they are built again only when they change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && printf 'fn main() {}\n' > src/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked \
    && rm -rf src
COPY src src
COPY lua lua
# Newer than the empty program, whatever the clock of the build context says.
RUN find src -name '*.rs' -exec touch {} + \
    && cargo build --release --locked \
    && strip target/release/lockgate

FROM debian:bookworm-slim AS bare
# A fixed id, so that volumes can be prepared for it.
RUN groupadd --gid 7379 lockgate \
    && useradd --uid 7379 --gid lockgate --home-dir /data --no-create-home --shell /usr/sbin/nologin lockgate \
    && install -d -o lockgate -g lockgate -m 700 /data
COPY --from=build /src/target/release/lockgate /usr/local/bin/lockgate
COPY LICENSE /usr/share/doc/lockgate/LICENSE
# In a container the loopback is reached by nobody; which networks reach the port is decided where it is published.
ENV LOCKGATE_LISTEN=0.0.0.0:7379 \
    LOCKGATE_DATA_DIR=/data
USER 7379:7379
WORKDIR /data
EXPOSE 7379
STOPSIGNAL SIGTERM
# Through Lockgate to the upstream and back.
HEALTHCHECK --interval=5s --timeout=4s --start-period=15s --retries=3 CMD ["lockgate", "ping", "--timeout", "3s"]
ENTRYPOINT ["lockgate"]
CMD ["serve"]

FROM bare AS lockgate
USER 0:0
# The program alone: the package's service and its settings are not needed. No pinned version: Debian's security updates
# replace it within its release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends redis-server \
    && rm -rf /var/lib/apt/lists/* /etc/redis /var/lib/redis /var/log/redis
USER 7379:7379
VOLUME /data
