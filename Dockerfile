# The worker for RunPod's clients, and the base of baked applications, with GPU libraries:
# docker build -t saggar/runpod -f Dockerfile . (linux/amd64)
ARG BASE=nvidia/cuda:12.8.1-cudnn-runtime-ubuntu24.04

# The wheel is made apart: nothing of the checkout is in the image but its own two files.
FROM ${BASE} AS python
# CUDA's bases have no Python; others that are named with BASE may have one.
RUN set -eu; \
    command -v pip >/dev/null || { \
        apt-get update; \
        apt-get install -y --no-install-recommends python3 python3-dev python3-pip build-essential; \
        rm -rf /var/lib/apt/lists/*; }
ENV PIP_BREAK_SYSTEM_PACKAGES=1

FROM python AS wheel
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY . /checkout
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /checkout

FROM python

# Where packages come from, while it is built only. RUNPOD takes jobs from RunPod; an image for local
# use does without: --build-arg RUNPOD=
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG RUNPOD=runpod
# What needs a GPU, and where it comes from: wheels for the base's version of CUDA.
ARG GPU_PACKAGES="torch torchvision torchaudio"
ARG GPU_INDEX_URL=https://download.pytorch.org/whl/cu128

LABEL org.opencontainers.image.title="saggar runpod worker"
WORKDIR /app

COPY --from=wheel /wheels /tmp/wheels
RUN set -eu; \
    command -v python >/dev/null || ln -s "$(command -v python3)" /usr/local/bin/python; \
    pip install --no-cache-dir --root-user-action=ignore \
        "$(ls /tmp/wheels/*.whl)[server,models]" uv ${RUNPOD}; \
    rm -rf /tmp/wheels; \
    # Requests run as nobody in particular, and find their packages here.
    install -d -m 0755 /opt/cache /opt/cache/saggar
RUN [ -z "${GPU_PACKAGES}" ] || pip install --no-cache-dir --root-user-action=ignore \
        ${GPU_INDEX_URL:+--index-url "${GPU_INDEX_URL}"} ${GPU_PACKAGES}
COPY runners/runpod/ ./

# A container is a wall already, and most of them let nobody inside build another one of namespaces.
# So requests are behind Landlock at least; where a jail can be had it is used. What Landlock does not
# limit the container has to (docker run --memory --cpus --pids-limit). The packages of this image are
# visible to requests, read-only: an application's image adds to them with uv pip install --system.
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    DEBIAN_FRONTEND=noninteractive \
    HF_HUB_ENABLE_HF_TRANSFER=1 \
    UV_BREAK_SYSTEM_PACKAGES=1 \
    UV_SYSTEM_CERTS=1 \
    XDG_CACHE_HOME=/opt/cache \
    EXECUTION_ISOLATION=landlock \
    EXECUTION_BEST_EFFORT=cpu_share,disk,inodes,processes \
    EXECUTION_HOST_PACKAGES=true

CMD ["python", "handler.py"]
