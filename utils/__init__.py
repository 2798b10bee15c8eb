"""What every layer may use: errors, files, pictures, scores, processes."""
