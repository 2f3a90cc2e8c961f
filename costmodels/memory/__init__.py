"""How much memory ops and allocators take."""
