"""From raw logs to training rows: sources, vocabularies, splits, histories, batches."""
