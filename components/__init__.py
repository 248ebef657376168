"""The pipeline's steps as processes: graph, command line, artifacts, exit codes."""
