"""Containers: Dockerfiles, compose files, Kubernetes manifests, `docker run`."""
