"""The gene vocabulary, and the identifiers under which genes are published."""
