"""The loop, its optimizer, checkpoints and monitor, and the setup of a method from settings.

`loop` takes the steps, `train` prepares, trains and merges, `checkpoint` writes and reads checkpoints, and `monitor` ends
training.
Belongs elsewhere: losses (`losses`), importances (`importance`), and any decision by a method's name.
"""
