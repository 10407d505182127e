"""The three demo clips, their instructions, and the program that draws them."""
