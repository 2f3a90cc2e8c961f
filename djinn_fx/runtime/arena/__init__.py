"""Values that pass from one region to another, in one allocation that every call uses again."""
