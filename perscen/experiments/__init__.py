"""Many trainings under one protocol: what is compared, the runs, and what they come to."""
