# syntax=docker/dockerfile:1
# The service: one process, no root, no compiler, no development dependency.
#   docker build -t codesvc .
#   docker run --rm codesvc --help

ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS builder
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# The dependencies come first: a change of the source leaves their layer as it is.
COPY requirements/prod.txt requirements/build.txt /src/requirements/
RUN python -m venv --without-pip /opt/codesvc
RUN pip --python /opt/codesvc/bin/python install --require-hashes -r /src/requirements/prod.txt
RUN python -m venv /opt/build && /opt/build/bin/pip install --require-hashes -r /src/requirements/build.txt
COPY . /src
# By way of the source distribution, so that one which lacks a file fails here and not at a user's.
RUN cd /src && /opt/build/bin/python setup.py -q sdist --dist-dir /wheels/source
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels /wheels/source/codesvc-*.tar.gz
RUN pip --python /opt/codesvc/bin/python install --no-deps --no-index --find-links /wheels codesvc
# What it holds, for whoever has to know: /opt/codesvc/sbom.cdx.json. The build fails where that is not what was locked.
RUN /opt/codesvc/bin/python /src/deploy/sbom.py --exact /src/requirements/prod.txt > /opt/codesvc/sbom.cdx.json

FROM ${BASE} AS runtime
LABEL org.opencontainers.image.title="codesvc" org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 codesvc && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent codesvc
ENV PATH=/opt/codesvc/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONFAULTHANDLER=1
COPY --from=builder /opt/codesvc /opt/codesvc
USER 10001:10001
# The build fails where the extension does not load and work, or where a development dependency came along.
RUN --mount=type=bind,source=deploy/check_image.py,target=/check_image.py ["python", "/check_image.py"]
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s CMD ["python", "-m", "codesvc.livez"]
ENTRYPOINT ["codesvc"]
CMD ["serve"]
