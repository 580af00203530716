# The one binary on a small base. Build context: the repository.
FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked && strip -s target/release/laminar -o /laminar

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates libssl3 && rm -rf /var/lib/apt/lists/* \
    && useradd --system --home-dir /data --create-home laminar
COPY --from=build /laminar /usr/local/bin/laminar
USER laminar
WORKDIR /data
EXPOSE 5433 5115
ENTRYPOINT ["laminar", "--data-dir", "/data"]
