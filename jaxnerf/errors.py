"""The errors that a user can mend, and the checks of values in the classes of a configuration."""

from typing import Any


class Error(Exception):
    """Something given to jaxnerf is missing or wrong: one line that says what, and where.

    `SceneError`, `RunError`, `ConfigError` and `FitError` are its kinds. What only a program can get
    wrong (shapes, names of arguments) raises Python's own errors.
    """


def positive(settings: Any, *names: str) -> None:
    """Check that values are above 0.

    Args:
      settings: an object whose attributes are numbers, or tuples of numbers.
      names: names of the attributes to check.

    Raises:
      ValueError: a value is 0 or less; the message begins with the attribute's name.
    """
    for name in names:
        value = getattr(settings, name)
        if min(value if isinstance(value, tuple) else (value,)) <= 0:
            raise ValueError(f"{name}: must not be {value}")


def in_range(settings: Any, **limits: tuple[float | int, float | int]) -> None:
    """Check that values are in a range.

    Args:
      settings: an object whose attributes are numbers, or tuples of numbers.
      limits: the least and the greatest value of each attribute to check.

    Raises:
      ValueError: a value is outside of its range; the message begins with the attribute's name.
    """
    for name, (least, most) in limits.items():
        value = getattr(settings, name)
        values = value if isinstance(value, tuple) else (value,)
        if not (values and least <= min(values) and max(values) <= most):
            raise ValueError(f"{name}: {value} is not from {least} to {most}")
