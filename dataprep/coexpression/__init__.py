"""The gene graph of a corpus: by correlation of its train profiles, or from a table of edges."""
