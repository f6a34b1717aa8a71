# Two images from one file; the steps are those of `make setup`.
#
#   docker build --target api    -t temper-api .       the API and its pages: slim, no torch
#   docker build --target worker -t temper-worker .    a GPU worker: vLLM and torch bring CUDA's libraries as wheels,
#                                                      the driver comes from the NVIDIA container toolkit
#
# Both run as the user `temper` and keep their state in /var/lib/temper.

FROM python:3.11-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 TEMPER_HOME=/var/lib/temper
RUN useradd --create-home --uid 10001 temper \
 && install --directory --owner temper --group temper --mode 0700 /var/lib/temper
WORKDIR /opt/temper
COPY requirements/ requirements/
RUN python -m venv .venv \
 && .venv/bin/python -m pip install --quiet -c requirements/constraints.txt uv
COPY pyproject.toml README.md LICENSE alembic.ini ./
COPY datagen/ datagen/
COPY optimizer/ optimizer/
COPY service/ service/
COPY migrations/ migrations/
COPY benchmarks/ benchmarks/
ENV PATH=/opt/temper/.venv/bin:$PATH

FROM base AS api
RUN python -m uv pip install --python .venv/bin/python --quiet -c requirements/constraints.txt .
USER 10001:10001
VOLUME /var/lib/temper
EXPOSE 8642
HEALTHCHECK --interval=10s --timeout=3s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8642/healthz')"]
CMD ["temper", "serve", "--host", "0.0.0.0", "--no-worker"]

FROM base AS worker
# triton compiles its kernels at run time
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
RUN python -m uv pip install --python .venv/bin/python --quiet -c requirements/constraints.txt '.[gpu]'
USER 10001:10001
VOLUME /var/lib/temper
CMD ["temper", "worker"]
