"""A graph of Dynamo on its way to AOTAutograd, with no more imported than that takes."""
