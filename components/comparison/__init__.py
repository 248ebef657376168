"""The pages of a comparison: tables, figures, and the numbers they are made of."""
