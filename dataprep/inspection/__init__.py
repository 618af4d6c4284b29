"""What is in a corpus."""
