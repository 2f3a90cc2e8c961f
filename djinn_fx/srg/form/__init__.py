"""A region's canonical form: hashed, written as JSON, and rebuilt from it."""
