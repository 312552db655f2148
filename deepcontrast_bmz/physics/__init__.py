"""The tissue, the detector, and both together; all of it our own model, not the paper's."""
