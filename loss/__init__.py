"""Training losses: cross entropy, image-weighted cross entropy and label relaxation."""
