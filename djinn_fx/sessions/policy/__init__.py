"""Who leaves the memory, where to, and who comes back when: decisions alone, without torch, clocks or copies."""
