"""The command line: parsing, dispatch to a command, and what the terminal shows.

No work on models or files is done here.
"""
