# The anchord image. Two final stages, same content:
#   image     (the default) compiles the program here
#   prebuilt  takes bin/anchord from the build context (scripts/image)
# BASE_IMAGE may be Alpine or anything of Debian's kind. Everything that anchord
# calls is installed from the base's own packages, or has to be there already.
ARG BASE_IMAGE=alpine:3.22

FROM ${BASE_IMAGE} AS base
RUN set -eu; \
    missing() { \
      for tool in nft ip conntrack udhcpc dhcpcd busybox tini; do \
        command -v "$tool" >/dev/null || printf ' %s' "$tool"; \
      done; \
    }; \
    if command -v apk >/dev/null; then \
      apk add --no-cache conntrack-tools dhcpcd iproute2 nftables tini; \
    elif command -v apt-get >/dev/null && [ -n "$(missing)" ]; then \
      apt-get update; \
      DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        busybox conntrack dhcpcd-base iproute2 nftables tini udhcpc; \
      rm -rf /var/lib/apt/lists/*; \
    fi; \
    tools=$(missing); \
    if [ -n "$tools" ]; then echo "the base image lacks:$tools" >&2; exit 1; fi; \
    # anchord starts dhcpcd with two capabilities. With a user of its own, dhcpcd
    # would want more of them, to give up what it does not have.
    sed -i '/^_\{0,1\}dhcpcd:/d' /etc/passwd
COPY rootfs/ /
ARG VERSION=devel
ARG REVISION=unknown
LABEL org.opencontainers.image.title="anchord" \
      org.opencontainers.image.description="One LAN address for a Compose project" \
      org.opencontainers.image.source="https://github.com/AlexCherrypi/anchord" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
HEALTHCHECK --interval=30s --timeout=3s --start-period=30s CMD ["anchord", "healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--", "anchord"]

FROM base AS prebuilt
COPY bin/anchord /usr/local/bin/anchord

FROM golang:1.26-alpine AS compile
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=devel
ARG REVISION=unknown
RUN scripts/build /anchord

FROM base AS image
COPY --from=compile /anchord /usr/local/bin/anchord
