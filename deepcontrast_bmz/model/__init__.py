"""A trained loop, ready to run: networks, the loop, devices, opening a MODEL."""
