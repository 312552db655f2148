"""How far to go: optical depth of an image, evidence, warning; one decision for all callers."""
