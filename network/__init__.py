"""The networks: DeepLabV3+ on several trunks, their weights, and what makes them fast."""
