"""Files that are written atomically, and a lock on a folder. What the files hold is known elsewhere."""
