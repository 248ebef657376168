"""``python -m components``: the same program as ``perscen``."""

from components.cli import main

main()
