"""The engine `packed`: products with weights laid out for the processor's vectors."""
