"""A plan and its run as text, as JSON, as a page."""
