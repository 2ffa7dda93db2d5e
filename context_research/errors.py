"""The two ways in which a run can't go on, each carrying one line that names the problem and the fix."""


class UsageProblem(Exception):
    """The input is wrong: settings, files, arguments. Raised before any engine starts."""


class EngineFailure(Exception):
    """An engine could not start, or died. The message names the engine and quotes its own reason."""
