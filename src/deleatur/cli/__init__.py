"""The command line: parsing, dispatch to a command, and what the terminal shows.

A new option is a field in `commands.options`; how it is shown belongs here. Belongs elsewhere: work on models or files
(`commands`).
"""
