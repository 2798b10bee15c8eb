"""The networks. Nothing is imported here, so that `network.names` stays readable without torch."""
