"""The definition of every op in plain PyTorch: short, and the truth the backends are held to."""
