"""Every attack against every defense: replayed, white-box and adaptive, and the worst case per image."""
