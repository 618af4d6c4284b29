"""Bring up or reach the machines and submit jobs to them. Knows nothing of genes."""
