# syntax=docker/dockerfile:1
# The registry and tracking server, of the version that its clients have.
#   docker build -f infra/images/mlflow.Dockerfile -t perscen-mlflow:3.17.2 .
FROM python:3.11.14-slim-bookworm
ARG PERSCEN_REVISION=unknown
LABEL org.opencontainers.image.title="perscen-mlflow" \
      org.opencontainers.image.description="MLflow server with PostgreSQL and S3" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="$PERSCEN_REVISION"
WORKDIR /opt/mlflow
COPY constraints.txt ./
RUN pip install --no-cache-dir --root-user-action ignore --constraint constraints.txt \
      boto3 mlflow psycopg2-binary \
    && pip check \
    && useradd --uid 10001 --create-home mlflow
ENV DO_NOT_TRACK=true \
    GIT_PYTHON_REFRESH=quiet \
    MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
USER 10001
EXPOSE 5000
HEALTHCHECK --interval=30s --timeout=10s --start-period=2m CMD \
  ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:5000/health', timeout=5)"]
CMD ["mlflow", "server", "--host", "0.0.0.0"]
