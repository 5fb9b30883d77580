"""Does what a model was to forget come back? Attacks with controls, on several models alike, and verdicts on that.

settings and verdicts need no torch; `conduct.conduct` runs an audit.
"""
