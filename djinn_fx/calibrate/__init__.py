"""Calibration: small graphs, run by every engine that is here, and the profile that is fitted to their times."""
