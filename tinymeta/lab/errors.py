"""The one error a user of the lab sees."""


class UserError(Exception):
    """What was given, what was expected and what to do, in one sentence; the command prints it and exits with 2."""
