"""Between which ends whole numbers of a graph lie: proved while it is converted, or checked before a call."""
