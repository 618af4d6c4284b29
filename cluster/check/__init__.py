"""``cluster check``: whether every node of a cluster can do what training asks of it."""
