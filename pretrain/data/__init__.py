"""Which profile is trained on when, by whom, and how it is read."""
