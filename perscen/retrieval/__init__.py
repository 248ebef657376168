"""Indexes, bundles, and the retriever that answers from them."""
