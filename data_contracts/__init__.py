"""What a row means, and the checking of it."""
