"""What parts of a graph are there for: streams of data, masks, stems."""
