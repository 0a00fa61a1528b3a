"""What the errors that a user can mend have in common."""


class Error(Exception):
    """Something given to jaxnerf is missing or wrong: one line that says what, and where.

    `SceneError`, `RunError`, `ConfigError` and `FitError` are its kinds. What only a program can get
    wrong (shapes, names of arguments) raises Python's own errors.
    """
