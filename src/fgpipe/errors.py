"""The one tree of errors a user can cause; the command line prints them as a line and a hint, never as a traceback."""

from __future__ import annotations


class FgpipeError(Exception):
    """A mistake the user can mend: `message` says what was got and expected, `hint` what to do next."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message


class ConfigError(FgpipeError):
    """The configuration cannot be used; `message` lists every fault found."""


class FormatError(FgpipeError):
    """A conversation, tool schema or generated text does not fit FunctionGemma's format."""


class DataError(FgpipeError):
    """A dataset cannot be read, or a row in it is unusable."""


class ModelError(FgpipeError):
    """A base model or tokenizer cannot be loaded."""


class TrainingError(FgpipeError):
    """Training cannot start or had to stop."""


class EvaluationError(FgpipeError):
    """Scoring could not finish; never counted as a wrong answer."""


class ValidationError(FgpipeError):
    """An adapter breaks a rule of the server that is to serve it."""


class PublishError(FgpipeError):
    """A version could not be published, rolled back or found."""


class ServeError(FgpipeError):
    """The server cannot be started, reached or trusted."""
