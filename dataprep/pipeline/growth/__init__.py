"""Building into a corpus: what is not there yet becomes a new version of it."""
