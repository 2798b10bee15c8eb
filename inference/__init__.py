"""From a trained network to probabilities, labels and pictures. Knows no command line and no data set's files."""
