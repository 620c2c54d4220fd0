"""Why a model can't be used."""


class ModelError(Exception):
    """One line for the user: what was found, what was expected, what to do."""

    exit_code = 4


class DeviceError(Exception):
    """The device or precision that was asked for isn't there."""

    exit_code = 2
