# The HTTP face of jobs: it takes them in, and runs none. So it has no ML libraries and no walls to
# build. From the checkout: docker build -f api.Dockerfile -t saggar/api . (or `make build-api`)
ARG BASE=python:3.13-slim
FROM ${BASE} AS wheel
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /checkout
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM ${BASE}
# Where packages come from, while it is built only.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

LABEL org.opencontainers.image.title="saggar api"
COPY --from=wheel /wheel/ /tmp/wheel/

# Uid 1000 by hand: not every base has useradd, and some have somebody of that number. What a base has
# of Debian's packages cannot be replaced, only put in the shade.
RUN set -eu; \
    pip install --no-cache-dir --root-user-action=ignore --ignore-installed \
        "$(ls /tmp/wheel/*.whl)[server,jobs]"; \
    rm -rf /tmp/wheel; \
    grep -q '^[^:]*:[^:]*:1000:' /etc/passwd || { \
        echo 'api:x:1000:1000::/tmp:/bin/sh' >>/etc/passwd; \
        echo 'api:x:1000:' >>/etc/group; }

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp

# Without SAGGAR_KEY it starts only where SAGGAR_INSECURE_BIND=1 says that its port is published on
# 127.0.0.1 only (docker run -p 127.0.0.1:8000:8000).
USER 1000:1000
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
ENTRYPOINT ["saggar"]
CMD ["serve", "--jobs-only", "--host", "0.0.0.0", "--port", "8000"]
