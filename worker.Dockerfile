# A worker, and Flower who watches it. From the checkout: docker build -f worker.Dockerfile -t
# saggar/worker . (or `make build-worker`); with libraries for the code that jobs run:
#   docker build -f worker.Dockerfile -t saggar/worker --build-arg PACKAGES="torch transformers" .
ARG BASE=python:3.13-slim
FROM ${BASE} AS wheel
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /checkout
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM ${BASE}
# Where packages come from, while it is built only. PACKAGES are installed beside the worker: what
# CodeTools runs, and what asks for host packages, finds them. Each of ENVIRONMENTS, separated by
# semicolons, is a layer that jobs get by naming the same requirements: ENVIRONMENTS="numpy;torch".
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PACKAGES=""
ARG ENVIRONMENTS=""
ARG FLOWER="flower>=2"

LABEL org.opencontainers.image.title="saggar worker"
COPY --from=wheel /wheel/ /tmp/wheel/

# Uid 1000 by hand: not every base has useradd, and some have somebody of that number. What a base has
# of Debian's packages cannot be replaced, only put in the shade.
RUN set -eu; \
    pip install --no-cache-dir --root-user-action=ignore --ignore-installed \
        "$(ls /tmp/wheel/*.whl)[jobs]" ${FLOWER:+"$FLOWER"} ${PACKAGES}; \
    rm -rf /tmp/wheel; \
    grep -q '^[^:]*:[^:]*:1000:' /etc/passwd || { \
        echo 'worker:x:1000:1000::/tmp:/bin/sh' >>/etc/passwd; \
        echo 'worker:x:1000:' >>/etc/group; }

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    SAGGAR_CACHE_DIR=/opt/saggar/cache

# Layers are in the image: a worker runs where no index can be reached, and its root is read-only.
RUN set -eu; \
    pip install --no-cache-dir --root-user-action=ignore --target /tmp/uv uv; \
    export PATH=/tmp/uv/bin:$PATH UV_NO_CACHE=1 UV_SYSTEM_CERTS=1; \
    install -d "$SAGGAR_CACHE_DIR"; \
    echo "${ENVIRONMENTS}" | tr ';' '\n' | while read -r packages; do \
        [ -z "$packages" ] || saggar env prepare $(printf -- '--package %s ' $packages); \
    done; \
    rm -rf /tmp/uv; \
    chmod -R a+rX /opt/saggar

COPY scripts/worker-entry /usr/local/bin/

# Jobs run behind a jail, which takes namespaces: the container must be allowed to make them (see
# docs/deploy.md). Where it is not, the worker says so and does not begin.
USER 1000:1000
WORKDIR /tmp
HEALTHCHECK --interval=30s --timeout=20s --start-period=40s \
    CMD ["worker-entry", "ping"]
ENTRYPOINT ["worker-entry"]
CMD ["celery", "-A", "saggar.worker", "worker", "--loglevel=info"]
