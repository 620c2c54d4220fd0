"""What is written: rasters of classes and probabilities, their legends and containers."""
