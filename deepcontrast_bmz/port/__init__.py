"""Somebody else's package, rewritten so that it opens everywhere."""
