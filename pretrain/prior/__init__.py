"""Fits of the linear prior: by how much profiles vary together, and how much of that to believe in new studies."""
