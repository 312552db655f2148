"""Scores at every dial, the verdict, and the report."""
