"""The one error that is the user's to mend."""


class UserError(Exception):
    """Something in the input or the surroundings that the user can mend.

    The command line prints it as one line and exits with code 2; in a notebook it is an ordinary exception.

    Args:
        problem: what is wrong, with the offending value.
        remedy: what to do about it, as a command or an instruction.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.problem = problem
        self.remedy = remedy
