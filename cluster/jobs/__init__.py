"""Submit commands to a Ray cluster and follow them."""
