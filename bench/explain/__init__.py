"""What explain foretells beside what is then measured, and what a report takes."""
