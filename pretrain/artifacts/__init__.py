"""What a run leaves: checkpoints and exports, and the files of released models."""
