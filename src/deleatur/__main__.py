"""`python -m deleatur` is the command `deleatur`."""

from deleatur.cli.main import main

if __name__ == "__main__":
    main()
