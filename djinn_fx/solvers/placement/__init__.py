"""Which device runs which operator: placement of a DAG on devices with memory limits and links."""
