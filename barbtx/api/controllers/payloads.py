"""Responses that contain a payload, and the transport keys that wrap payloads (contract, sections 3.4 and 10)."""

from __future__ import annotations

from barbtx.api.call import Call
from barbtx.api.responses import Response
from barbtx.api.schemas.secrets import OCTETS, PKCS8, TEXT, TEXT_SPELLINGS
from barbtx.errors import BadRequest, NotAcceptable, NotFound
from barbtx.model.records import NewSecret, Secret, TransportKey
from barbtx.plugin import resources

#: Media types of payloads.
PAYLOAD_TYPES = (TEXT, OCTETS, PKCS8)
_TEXT_UTF8 = "text/plain; charset=utf-8"


async def payload_response(call: Call, secret: Secret) -> Response:
    """Read a secret's payload, and return it in the media type that the ``Accept`` header names.

    :raises NotFound: the secret has no payload.
    :raises BadRequest: the query parameters or the ``Accept`` header are not valid.
    :raises NotAcceptable: the payload cannot be returned in the requested media type.
    """
    query = call.query
    if secret.payload is None:
        raise NotFound("Not Found. Sorry but your secret has no payload.")
    session_key, key = query.get("trans_wrapped_session_key"), None
    if session_key is not None:
        key = await find_transport_key(call, query.get("transport_key_id"))
        if key is None:
            raise BadRequest("trans_wrapped_session_key needs the transport_key_id that it belongs to.")
    accept = call.header("accept")
    content_type = _response_type(accept, secret.payload.content_type)
    content = await resources.get_secret(call.dependencies.stores, secret, session_key, key)
    if content_type == _TEXT_UTF8 and not _is_utf8(content):
        if accept == "*/*":
            content_type = OCTETS
        else:
            raise _unacceptable()
    # Empty payloads are rejected today, but old or imported secrets may have one.
    return Response(200 if content else 204, content=content, content_type=content_type)


async def find_transport_key(call: Call, key_id: str | None) -> TransportKey | None:
    """Find the transport key that a request names; None if it names none.

    :raises BadRequest: there is no such key.
    """
    if not key_id:
        return None
    key = await call.dependencies.repositories.transport_keys.get(key_id)
    if key is None:
        raise BadRequest("The transport key id is not known.")
    return key


async def current_transport_key(call: Call, secret: NewSecret | Secret) -> str:
    """Return the id of the transport key for which a client can wrap a secret's payload.

    :raises NotSupported: the secret's store has no transport key.
    """
    plugin_name, key = await resources.current_transport_key(call.dependencies.stores, secret)
    return await call.dependencies.repositories.transport_keys.publish(plugin_name, key)


def _response_type(accept: str | None, stored: str) -> str:
    """Return the content type of a payload's response.

    :param accept: the ``Accept`` header.
    :param stored: media type of the payload.
    :raises BadRequest: the header has a supported media type, but not in lower case.
    :raises NotAcceptable: the header has any other value.
    """
    requested = (accept or "").strip()
    if not requested:
        return OCTETS
    if requested == "*/*":
        return _TEXT_UTF8 if stored == TEXT else stored
    if requested in TEXT_SPELLINGS:
        return _TEXT_UTF8
    if requested in (OCTETS, PKCS8):
        return requested
    if requested.lower() in (*TEXT_SPELLINGS, OCTETS, PKCS8):
        raise BadRequest("Write the media type in the Accept header in lower case.")
    raise _unacceptable()


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _unacceptable() -> NotAcceptable:
    return NotAcceptable(
        "Secret payload retrieval issue seen - the payload is available as application/octet-stream, "
        "application/pkcs8 or, if it is UTF-8, text/plain."
    )
