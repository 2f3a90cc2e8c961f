"""Sessions that keep copies of weights, and the watch over those weights."""
