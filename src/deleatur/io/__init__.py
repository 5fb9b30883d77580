"""Files that are written atomically, a lock on a folder, and which packages are installed.

Belongs elsewhere: what the files hold (`run_folder`, `training.checkpoint`).
"""
