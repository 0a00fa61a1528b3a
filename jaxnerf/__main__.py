"""`python -m jaxnerf` is `jaxnerf`."""

from jaxnerf.cli import entry_point

if __name__ == "__main__":
    entry_point()
