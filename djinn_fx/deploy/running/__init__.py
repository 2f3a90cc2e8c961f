"""A plan carried out on this machine: processes that host its models, and who sends them nodes."""
