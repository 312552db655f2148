"""The tissue, the camera and its noise, phantoms, simulated recordings."""
