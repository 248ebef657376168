# syntax=docker/dockerfile:1
# What steps run in. From the repository's root:
#   docker build -f infra/images/step.Dockerfile -t perscen:cpu .
#   docker build -f infra/images/step.Dockerfile -t perscen:gpu --build-arg EXTRAS=gpu .
# EXTRAS are those of pyproject.toml: Kubeflow's tasks need `cpu,kfp` and `gpu,kfp`, the Airflow of
# infra/compose.yaml, whose steps are its own processes, `cpu,airflow`.
FROM python:3.11.14-slim-bookworm AS build
ARG EXTRAS=cpu
ENV PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/venv
WORKDIR /build
# Without the code: a change of it installs nothing again.
COPY pyproject.toml constraints.txt README.md LICENSE ./
# torch for CPUs has an index of its own; from the default one comes the build for CUDA.
RUN case "$EXTRAS" in \
      cpu*) pip install --no-cache-dir --no-deps \
              --index-url https://download.pytorch.org/whl/cpu \
              "$(grep '^torch==' constraints.txt)" ;; \
    esac \
    && pip install --no-cache-dir --constraint constraints.txt ".[$EXTRAS]" \
    && pip check

FROM python:3.11.14-slim-bookworm
ARG PERSCEN_REVISION=unknown
LABEL org.opencontainers.image.title="perscen" \
      org.opencontainers.image.description="Steps of the daily retraining" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="$PERSCEN_REVISION"
# Process 1 ignores SIGTERM unless it says otherwise: tini passes it on to the step. Debian keeps
# only the newest build of a package, so a pinned one would soon be gone.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home perscen \
    # Volumes are mounted here; an empty one takes its owner from the image.
    && install -d -o perscen -g perscen /perscen /home/perscen/airflow
COPY --from=build /opt/venv /opt/venv
WORKDIR /opt/perscen
COPY params.yaml ./
COPY perscen perscen
COPY components components
COPY data_contracts data_contracts
COPY dags dags
# Nothing here needs git, which MLflow asks for by way of GitPython.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/perscen \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PERSCEN_REVISION=$PERSCEN_REVISION \
    GIT_PYTHON_REFRESH=quiet
USER 10001
RUN python -c "import components.runner, dvc.repo, faiss, great_expectations, mlflow, torch"
HEALTHCHECK --interval=5m --timeout=1m CMD ["perscen", "--version"]
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "components", "--help"]
