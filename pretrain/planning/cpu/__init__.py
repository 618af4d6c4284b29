"""Plans for the CPUs of this machine: rates that are measured, and what processes hold beside tensors."""
