"""Which of the profiles that a model is scored on it has seen in pretraining."""
