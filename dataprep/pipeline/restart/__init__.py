"""What a build keeps while it runs, so that the same command goes on where it was killed."""
