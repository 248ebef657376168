# syntax=docker/dockerfile:1
# Airflow for a cluster, where every step is a pod: the DAGs and the graph, and none of the library.
#   docker build -f infra/images/airflow.Dockerfile -t perscen-airflow:3.3.2 .
ARG AIRFLOW_VERSION=3.3.2
FROM apache/airflow:${AIRFLOW_VERSION}-python3.11
ARG AIRFLOW_VERSION
ARG PERSCEN_REVISION=unknown
LABEL org.opencontainers.image.title="perscen-airflow" \
      org.opencontainers.image.description="Airflow with the DAGs of the daily retraining" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="$PERSCEN_REVISION"
COPY constraints.txt /opt/perscen/
# Airflow's own pins for the store that the sensor watches; ours for what starts the pods, as that is
# what the tests run. Naming Airflow itself keeps pip from replacing it.
RUN pip install --no-cache-dir "apache-airflow==${AIRFLOW_VERSION}" s3fs --constraint \
      "https://raw.githubusercontent.com/apache/airflow/constraints-${AIRFLOW_VERSION}/constraints-3.11.txt" \
    && grep -E '^(apache-airflow-providers-cncf-kubernetes|kubernetes|kubernetes_asyncio)==' \
      /opt/perscen/constraints.txt > /tmp/pins.txt \
    && pip install --no-cache-dir "apache-airflow==${AIRFLOW_VERSION}" --requirement /tmp/pins.txt \
    && pip check
COPY components/__init__.py components/fates.py components/pipeline.py components/render.py \
     /opt/perscen/components/
COPY dags /opt/perscen/dags
ENV AIRFLOW__CORE__DAGS_FOLDER=/opt/perscen/dags \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    PYTHONPATH=/opt/perscen
RUN python -c "import components.render, dags._deployment, dags._tasks"
HEALTHCHECK --interval=1m --timeout=30s CMD ["airflow", "version"]
