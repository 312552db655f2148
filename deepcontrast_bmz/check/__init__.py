"""Checks whether a package opens and runs in every program."""
