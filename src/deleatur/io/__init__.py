"""Files that are written whole or not at all, and a lock on a folder. What the files hold is known elsewhere."""
