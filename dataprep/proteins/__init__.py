"""`proteins`: the principal protein of each gene, embedded by a protein language model."""
