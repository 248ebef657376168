"""Two-tower models: one inner product between a user's and an item's vector, per scenario."""
