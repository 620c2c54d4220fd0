"""Options that make no sense."""


class OptionError(ValueError):
    """One line for the user: what was given, what is taken, what to do."""

    exit_code = 2
