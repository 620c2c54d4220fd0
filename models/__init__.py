"""Networks, footprints, packages, prediction and training: everything that knows torch."""
