"""Foretells what the BioImage Model Zoo will say of a package: its tests, its score, its rules."""
