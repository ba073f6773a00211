# make image     # docker build, with the labels of version, revision and time; ENGINE=podman for another program
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

COPY LICENSE README.md hatch_build.py pyproject.toml ./
COPY schemas/ schemas/
COPY docs/man/ docs/man/
COPY reconciler/ reconciler/
RUN /opt/build/bin/python -m pip wheel --no-deps --no-index --no-build-isolation --wheel-dir dist .
RUN /opt/build/bin/python -m pip --python /opt/tunnels/bin/python install --no-deps --no-index --compile --find-links dist tunnel-reconciler

# The bill of materials of the Python packages. That of the base image is not in it.
COPY requirements/sbom.py requirements/
RUN /opt/tunnels/bin/python requirements/sbom.py >/opt/tunnels/tunnel-reconciler.cdx.json
# A label with another version than the program's is an error.
ARG VERSION=""
RUN test -z "${VERSION}" || test "$(/opt/tunnels/bin/tunnels --version)" = "tunnel-reconciler ${VERSION}"

FROM ${BASE}
ARG BASE
ARG VERSION=""
ARG REVISION=""
ARG CREATED=""
LABEL org.opencontainers.image.title="tunnel-reconciler" \
      org.opencontainers.image.description="Declarative SSH tunnels: one process keeps them matching a YAML file" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE}"
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
# The check tests the process, not the tunnels: Swarm replaces an unhealthy container, and that would not repair an SSH
# server. It needs --listen with port 9722, the default; for another port, override it or use --no-healthcheck.
# examples/compose waits for the tunnels. Kubernetes has its own probes: see examples/kubernetes.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import http.client as http; c = http.HTTPConnection('127.0.0.1', 9722, timeout=4); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["tunnels"]
CMD ["run", "/etc/tunnels"]
