"""One module for each verb, and `options`, which says what each takes.

All stages of a run come together here. Belongs elsewhere: the terminal (`cli`), and how a stage works (the packages below).
"""
