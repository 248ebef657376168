"""Metrics, baselines, statistics and gates."""
