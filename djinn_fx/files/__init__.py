"""Files that others may have touched: user-only folders, the user's signature, YAML within bounds."""
