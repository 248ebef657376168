"""A look at single parts of a model: its codebook, its graph, its gates."""
