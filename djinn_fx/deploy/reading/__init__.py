"""Configurations and requests of several forms, as one workload; what is wrong with them, all of it in one error."""
