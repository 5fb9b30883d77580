"""The loop, its optimizer, checkpoints and monitor, and the setup of a method from settings.

No loss or importance is defined here.
"""
