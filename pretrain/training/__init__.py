"""What a worker of a run does."""
