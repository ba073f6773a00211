# docker build -t tunnel-reconciler .
# docker run -v "$PWD/tunnels:/etc/tunnels:ro" --read-only --tmpfs /run/tunnels:uid=65532 tunnel-reconciler
#
# Mount the folder, not the file: a file that an editor replaces stays the old one inside.
#
# Another mirror, or a digest to pin: --build-arg BASE=registry.example.com/python:3.13-slim-bookworm@sha256:…
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# What changes seldom comes first. Everything from an index has its hash in requirements/; nothing is compiled.
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
      org.opencontainers.image.description="Declarative SSH tunnels: one YAML file says which there are, one process keeps it true" \
      org.opencontainers.image.licenses="Apache-2.0"
# The same path as where it was built, and the same Python below it: a virtual environment knows both.
COPY --from=build /opt/tunnels /opt/tunnels
# Nothing is written outside of /run/tunnels (the control socket, if it is there to be written) and /tmp.
ENV PATH=/opt/tunnels/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# A number, so that Kubernetes can tell that it is not root (runAsNonRoot).
USER 65532:65532
EXPOSE 9722
STOPSIGNAL SIGTERM
# Whoever starts it asks for /livez and /readyz: see examples/kubernetes and examples/compose.
HEALTHCHECK NONE
ENTRYPOINT ["tunnels"]
CMD ["run", "/etc/tunnels"]
