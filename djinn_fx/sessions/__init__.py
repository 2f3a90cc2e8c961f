"""Agent sessions: key-value caches that leave the device while an agent waits and are back in time."""
