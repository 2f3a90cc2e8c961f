"""Runs a plan over several devices of this machine: a thread for each, which is on its processors alone."""
