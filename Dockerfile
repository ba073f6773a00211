# docker build -t tunnel-reconciler .
# docker run -v "$PWD/tunnels:/etc/tunnels:ro" --read-only --tmpfs /run/tunnels:uid=65532 tunnel-reconciler
#
# Mount the directory, not the file: a mounted file does not change when an editor replaces it.
#
# For another registry, or to pin a digest: --build-arg BASE=registry.example.com/python:3.13-slim-bookworm@sha256:…
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# Dependencies first: they change rarely, so the layer is cached. All have hashes in requirements/; none is compiled from source.
COPY requirements/build.txt requirements/run.txt requirements/
RUN python -m venv /opt/build
RUN python -m venv --without-pip /opt/tunnels
RUN /opt/build/bin/python -m pip install --require-hashes --only-binary=:all: -r requirements/build.txt
RUN /opt/build/bin/python -m pip --python /opt/tunnels/bin/python install --require-hashes --only-binary=:all: --compile -r requirements/run.txt

COPY LICENSE README.md pyproject.toml ./
COPY schemas/ schemas/
COPY reconciler/ reconciler/
RUN /opt/build/bin/python -m pip wheel --no-deps --no-index --no-build-isolation --wheel-dir dist .
RUN /opt/build/bin/python -m pip --python /opt/tunnels/bin/python install --no-deps --no-index --compile --find-links dist tunnel-reconciler

FROM ${BASE}
LABEL org.opencontainers.image.title="tunnel-reconciler" \
      org.opencontainers.image.description="Declarative SSH tunnels: one process keeps them matching a YAML file" \
      org.opencontainers.image.licenses="Apache-2.0"
# A virtual environment contains its own path and that of its Python: both are the same as in the build stage.
COPY --from=build /opt/tunnels /opt/tunnels
# The program writes only to /run/tunnels (the control socket, if the directory is writable) and /tmp.
ENV PATH=/opt/tunnels/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# A numeric user: Kubernetes checks it for runAsNonRoot.
USER 65532:65532
EXPOSE 9722
STOPSIGNAL SIGTERM
# The orchestrator checks /livez and /readyz: see examples/kubernetes and examples/compose.
HEALTHCHECK NONE
ENTRYPOINT ["tunnels"]
CMD ["run", "/etc/tunnels"]
