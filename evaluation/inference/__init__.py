"""A model and the profiles that it is given."""
