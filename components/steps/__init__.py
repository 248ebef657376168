"""The steps, one short file each: ``run(task, *, <its sections>) -> Manifest``."""
