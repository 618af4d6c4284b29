"""Sources to a corpus: listing, reading, deciding, writing."""
