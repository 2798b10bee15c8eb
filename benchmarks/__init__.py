"""What is measured: each module is a command."""
