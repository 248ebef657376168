"""PERSCEN: multi-scenario retrieval, retrained every day and shipped safely."""
