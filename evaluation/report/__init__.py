"""One page about models: what they were trained on, how that went, and what they are worth."""
