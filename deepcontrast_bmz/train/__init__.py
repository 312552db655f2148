"""Raw images to a run folder: pairs, the Lightning module, what is fitted afterwards."""
