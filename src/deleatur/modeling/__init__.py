"""Models: loading, the forward pass and what makes it fast and small, generation, the reference.

No loss and no method is defined here.
"""
