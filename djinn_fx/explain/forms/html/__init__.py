"""The report as one page that needs no network: its charts are laid out here, its text is in the template."""
