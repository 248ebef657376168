"""What ``perscen diagnose`` shows: tables at a terminal, CSV, SVG and Markdown."""
