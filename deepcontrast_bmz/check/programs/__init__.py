"""One module per program: its rules, and how it cuts, pads and runs."""
