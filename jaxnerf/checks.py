"""What the classes of a configuration check of their own values, when they are made."""

from typing import Any


def positive(settings: Any, *names: str) -> None:
    """Refuse values of 0 or less.

    Args:
      settings: with these attributes: numbers, or tuples of them.
      names: of attributes.

    Raises:
      ValueError: the message begins with the attribute's name.
    """
    for name in names:
        value = getattr(settings, name)
        if min(value if isinstance(value, tuple) else (value,)) <= 0:
            raise ValueError(f"{name}: must not be {value}")


def in_range(settings: Any, **limits: tuple[float | int, float | int]) -> None:
    """Refuse values outside of a range.

    Args:
      settings: with these attributes: numbers, or tuples of them.
      limits: the least and the greatest value of each.

    Raises:
      ValueError: the message begins with the attribute's name.
    """
    for name, (least, most) in limits.items():
        value = getattr(settings, name)
        values = value if isinstance(value, tuple) else (value,)
        if not (values and least <= min(values) and max(values) <= most):
            raise ValueError(f"{name}: {value} is not from {least} to {most}")
