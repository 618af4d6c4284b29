"""What MLflow is told of evaluations: runs with their tables, pictures and data sets, and registered models."""
