"""Exceptions whose message is meant for a person: one line saying what is wrong, where, and what to do."""


class DxmcError(Exception):
    """The run failed while running; the command line prints the message and exits with 1."""


class InputError(DxmcError):
    """The configuration or the input cannot be used; the command line prints the message and exits with 2."""


class ArtifactError(DxmcError):
    """An artifact is missing, damaged or of another schema; the message names the file and the stage to rerun."""


def on_one_line(error: BaseException) -> str:
    """What an error says, for such a message; the name of its type when it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
