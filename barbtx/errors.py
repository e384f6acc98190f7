"""The errors that clients can receive, and the function that turns an exception into an error response.

An error has an HTTP status, a title and a description that is safe to show. Anything else that helps the operator goes
into ``debug`` and from there into the log, never into a response. The shape of the response and the texts that clients
match on are those of the Key Manager API v1, section 1.7 of the contract.
"""

from __future__ import annotations

import re
from http import HTTPStatus

import attrs

TITLES = {int(status): status.phrase for status in HTTPStatus} | {413: "Request Entity Too Large"}

_LINE_END = re.compile(r"(?<![\s.:;,?!])\s*\n\s*")


class BarbtxError(Exception):
    """A failure with an HTTP status.

    :param description: the error and how to correct it; shown to the client.
    :param headers: additional response headers.
    :param debug: fields for the log only; never a payload, key, token or password.
    """

    status = 500
    #: Whether the change may have been made despite the error. If false, nothing was changed.
    outcome_unknown = False
    #: Whether the description is a reason to be embedded in "<Operation> issue seen - <reason>."
    is_reason = False

    def __init__(self, description: str | None = None, *, headers: dict[str, str] | None = None, **debug: object):
        super().__init__(description)
        self.description = description
        self.headers = headers or {}
        self.debug = debug


class BadRequest(BarbtxError):
    """The request is invalid: 400."""

    status = 400


class MalformedJSON(BadRequest):
    """The body is not JSON."""

    def __init__(self, hint: str = "") -> None:
        super().__init__("Malformed JSON" + (f": {hint}" if hint else ""))


class InvalidQuery(BadRequest):
    """A query parameter is invalid."""

    def __init__(self) -> None:
        super().__init__("URI provided invalid query string parameters.")


class SchemaMismatch(BadRequest):
    """The body is JSON, but does not match the schema."""

    def __init__(self, schema: str, reason: str, prop: str) -> None:
        super().__init__(f"Provided object does not match schema '{schema}': {reason}. Invalid property: '{prop}'")


class SecretInUse(BadRequest):
    """The secret has consumers and the deletion is not forced: 400."""

    def __init__(self) -> None:
        # python-barbicanclient recognizes this error by the first sentence.
        super().__init__("Secret cannot be deleted as it has consumers. Use force=true to delete it anyway.")


class OperationError(BarbtxError):
    """Base class of errors whose description is a reason; the response adds the name of the operation."""

    is_reason = True


class NotSupported(OperationError):
    """No plugin supports the request, or the form in which its data was sent: 400."""

    status = 400


class Unauthorized(BarbtxError):
    """The request is not authenticated: 401."""

    status = 401


class Forbidden(BarbtxError):
    """The policy denies the request: 403. Without a description, the response names the operation."""

    status = 403


class QuotaReached(OperationError):
    """The project has as many objects as its quota allows: 403."""

    status = 403

    def __init__(self) -> None:
        super().__init__("Creation not allowed because a quota has been reached")


class LimitReached(OperationError):
    """An object has as many subordinate objects as its limit allows: 403.

    :param what: the limited objects, in the plural and with their place: ``consumers of one object``.
    """

    status = 403

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"Creation not allowed because the limit of {limit} {what} has been reached")


class NotFound(BarbtxError):
    """The object does not exist, or is not visible to the caller: 404."""

    status = 404


class MethodNotAllowed(BarbtxError):
    """The resource does not support the method: 405."""

    status = 405

    def __init__(self, allow: tuple[str, ...] = ()) -> None:
        super().__init__(
            "The method is not allowed for this resource.",
            headers={"Allow": ", ".join(sorted(allow))} if allow else None,
        )


class NotAcceptable(BarbtxError):
    """No representation that the client accepts is available: 406."""

    status = 406


class Conflict(BarbtxError):
    """The request conflicts with the state of the object: 409."""

    status = 409


class MisdirectedRequest(BarbtxError):
    """The request is for another host: 421."""

    status = 421


class ProjectClosed(Conflict):
    """The project was deleted in Keystone and cannot get new objects: 409."""

    def __init__(self) -> None:
        super().__init__(
            "Nothing can be added to this project: it was deleted in Keystone, and its objects will be "
            "removed. An operator can cancel the removal."
        )


class UnprocessableContent(BarbtxError):
    """The body is well-formed but its content cannot be used: 422."""

    status = 422


class TooManyRequests(BarbtxError):
    """The caller exceeds a rate limit: 429."""

    status = 429


class TooLarge(BarbtxError):
    """The body, or a payload in it, exceeds the size limit: 413."""

    status = 413


class UnsupportedMediaType(BarbtxError):
    """The body has a media type that the resource does not take: 415."""

    status = 415

    def __init__(self, expected: tuple[str, ...]) -> None:
        super().__init__(f"Unexpected content type. Expected content types are: {list(expected)!r}")


class ServiceUnavailable(BarbtxError):
    """A dependency of the service is down or overloaded, or a limit is reached: 503. Nothing was changed or lost.

    :param retry_after: seconds after which the client should retry.
    """

    status = 503

    def __init__(self, description: str, *, retry_after: int = 2, **debug: object) -> None:
        super().__init__(description, headers={"Retry-After": str(retry_after)}, **debug)


class NotAvailableHere(ServiceUnavailable):
    """This process lacks a key or plugin that the stored data needs: 503. Other processes may have it."""

    def __init__(self, description: str, **debug: object) -> None:
        super().__init__(description, retry_after=10, **debug)


class ConfigurationError(Exception):
    """The configuration is not valid.

    :param problems: one line for the operator about each problem, without secrets.
    """

    def __init__(self, *problems: str) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join(self.problems))


@attrs.frozen
class ErrorResponse:
    """The error that a client receives.

    :ivar headers: additional response headers.
    :ivar debug: fields for the log only.
    """

    status: int
    description: str | None
    headers: dict[str, str] = attrs.field(factory=dict)
    debug: dict[str, object] = attrs.field(factory=dict, eq=False, repr=False)

    @property
    def title(self) -> str:
        """The reason phrase of the status."""
        return TITLES[self.status]


def to_error_response(error: BaseException, operation: str) -> ErrorResponse:
    """Turn an exception into a response that is safe to show; anything unexpected becomes a 500 without details.

    :param operation: the operation's name in client-facing texts, such as ``Secret creation``.
    """
    if isinstance(error, Forbidden):
        text = error.description or (f"{operation} attempt not allowed - please review your user/project privileges")
        return ErrorResponse(403, text, debug=error.debug)
    if (isinstance(error, BarbtxError) and error.status < 500) or isinstance(error, ServiceUnavailable):
        description = f"{operation} issue seen - {error.description}." if error.is_reason else error.description
        return ErrorResponse(error.status, description, dict(error.headers), error.debug)
    return ErrorResponse(500, f"{operation} failure seen - please contact site administrator.")


def one_line(problem: object, limit: int | None = None) -> str:
    """Return the text of an exception, or of anything else, with every run of white space replaced by one space.

    :param limit: longest text to return, in characters.
    """
    return " ".join(str(problem).split())[:limit]


def joined_lines(problem: object, limit: int | None = None) -> str:
    """Return the text of an exception in one line, with semicolons after those lines that end without punctuation.

    libpq's messages consist of such lines.

    :param limit: longest text to return, in characters.
    """
    return one_line(_LINE_END.sub("; ", str(problem).strip()), limit)
