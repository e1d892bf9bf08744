"""What a user can do something about: every such error is one line, and ends the command with exit code 2."""


class UserError(Exception):
    """Something that the user, not the program, has to mend. Printed as `error: what (where); do`.

    what: what happened. where: the file, row, key or flag. A path is the data set's own, and may name a patient as it does: such lines are for
    the terminal and `problems.json` of this machine, never for a record. do: what to do next.
    """

    def __init__(self, what: str, where: str, do: str) -> None:
        super().__init__(what, where, do)
        self.what, self.where, self.do = shortened(what), shortened(where), do

    def __str__(self) -> str:
        return f"{self.what} ({self.where}); {self.do}"


class ConfigError(UserError):
    """A setting, flag or suite that cannot be used."""


class DataError(UserError):
    """A file or row of a data set that cannot be used."""


class LeakError(UserError):
    """A patient or image on two sides, or a test side reached from where it must not be."""


class MachineError(UserError):
    """Disk, memory, permissions or services that do not suffice."""


def shortened(text: str, most: int = 600) -> str:
    """The text, its middle left out where a value in it has run away: a message stays a line."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def brief(error: BaseException) -> str:
    """What a file of someone else's raised, as one short line: its type and the first line of its message."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    name = type(error).__name__
    return f"{name}: {first if len(first) <= 200 else f'{first[:197]}...'}" if first else name
