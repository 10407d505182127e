"""The SAM2 tracker: the network, its image features and tracking over frames."""
