"""One module a verb, and `options`, which says what each takes.

Only here do all stages of a run come together; nothing here knows the terminal.
"""
