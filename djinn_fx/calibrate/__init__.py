"""Calibration: a fixed list of small graphs, run by every engine that is here, and the profile fitted to their times."""
