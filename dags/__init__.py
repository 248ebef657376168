"""Front doors: the pipeline's graph as Airflow tasks and as a Kubeflow pipeline."""
