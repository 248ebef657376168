"""Where MLflow and DVC are met; their errors stop here."""
