"""Errors that users see as one sentence, which names the entry, the value and the remedy."""


class NesfError(Exception):
    """An error caused by the input; the command line prints it without a traceback."""


class DataError(NesfError):
    """A dataset, file or crystal that cannot be used as it is."""


class EntryError(DataError):
    """An entry that cannot be used; whoever is asked to skip bad entries can leave it out."""


class ConfigError(NesfError):
    """A configuration key or value that does not exist or makes no sense."""
