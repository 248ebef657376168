"""The page about a run: artifacts in, one self-contained HTML file out."""
