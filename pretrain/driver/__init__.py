"""What the process that starts a run does."""
