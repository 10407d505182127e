"""The VRS-HQ family: prompts, token clustering and the network that reads frames and text."""
