"""Placements changed group by group: by chance, by descent, or one after the other to the end."""
