"""What the training commands, train.py and video/train.py, are made of; nothing else may import it."""
