"""`dlcluster` and `python -m dlcluster`."""

from dlcluster.cli import main

if __name__ == "__main__":
    main()
