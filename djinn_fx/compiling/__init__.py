"""From Dynamo's graph to a callable: captured, planned, priced, cut and handed out."""
