"""A run to a BioImage Model Zoo package: weights, rdf.yaml, model card, zip."""
