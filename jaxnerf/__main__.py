"""`python -m jaxnerf` is `jaxnerf`."""

import sys

from jaxnerf.cli import main

if __name__ == "__main__":
    sys.exit(main())
