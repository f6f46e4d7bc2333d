"""The one error a user is meant to read: it says what is wrong, where, and what to do."""


class UserError(ValueError):
    """Bad input, configuration or files. Commands print its one line and exit with status 1."""
