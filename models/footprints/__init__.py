"""How a footprint is found: by a walk through the exported graph, or by NaN."""
