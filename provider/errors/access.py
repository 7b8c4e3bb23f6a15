"""Errors of access: whose request it is, and what its key allows."""

from collections.abc import Sequence

from provider.errors.requests import RequestError


class HostNotAllowed(RequestError):
    """The request came to a name that the service does not have: see `server.allowed_hosts`."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"The host {host[:100]!r} is none of this service's names. Whoever runs it can add the name to "
            "server.allowed_hosts."
        )
        self.host = host


class AuthenticationMissing(RequestError):
    """Keys are required and none came."""


class AuthenticationFailed(RequestError):
    """The key is not one of ours."""


class ScopeMissing(RequestError):
    """The key does not allow what was asked for.

    Attributes:
        scope: what was asked for: a task, or `admin`.
        caller: name of the key.
        allowed: the tasks that the key allows; empty where `scope` is `admin`.
    """

    def __init__(self, scope: str, *, caller: str, allowed: Sequence[str]) -> None:
        super().__init__(f"the key {caller!r} does not allow {scope}; it allows: {', '.join(allowed) or 'none'}")
        self.scope, self.caller, self.allowed = scope, caller, tuple(allowed)


class ModelForbidden(RequestError):
    """The key does not allow the model.

    Attributes:
        name: the model as it was asked for.
        caller: name of the key.
        allowed: configured names of the models that the key allows.
    """

    def __init__(self, name: str, *, caller: str, allowed: Sequence[str]) -> None:
        super().__init__(f"the key {caller!r} does not allow the model {name!r}; it allows: {', '.join(allowed)}")
        self.name, self.caller, self.allowed = name, caller, tuple(allowed)


class LimitExceeded(RequestError):
    """The quota of a key is used up for a while.

    Attributes:
        unit: `requests` or `tokens`.
        period: `minute` or `day`.
        caller: name of the key.
        limit: how many it may use in the period.
        used: how many it has used.
        requested: how many the request needs.
        retry_after_seconds: until the period ends, at least 1.
    """

    def __init__(
        self, *, unit: str, period: str, caller: str, limit: int, used: int, requested: int, retry_after_seconds: int
    ) -> None:
        super().__init__(
            f"the key {caller!r} may use {limit} {unit} a {period}, has used {used}, and {requested} are requested"
        )
        self.unit, self.period, self.caller, self.limit, self.used = unit, period, caller, limit, used
        self.requested, self.retry_after_seconds = requested, retry_after_seconds


class RequestRateExceeded(LimitExceeded):
    """Too many requests in a minute."""


class TokenRateExceeded(LimitExceeded):
    """Too many tokens in a minute."""


class QuotaExceeded(LimitExceeded):
    """Too many requests or tokens in a day."""
