"""What every layer may use: errors, files, images, scores, processes."""
