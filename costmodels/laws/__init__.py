"""How long a device takes for it: laws, and how they are fitted."""
