"""What the errors of an object store mean. Only where one has come up is this imported, with the store's libraries."""

from __future__ import annotations

from collections.abc import Iterator

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    SSOTokenLoadError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)
from botocore.parsers import ResponseParserError
from s3fs.utils import FileExpired
from urllib3.exceptions import HTTPError

from dataprep.runtime.object_store.meaning import Meaning

# All that an operation on a store raises.
STORE_ERRORS = (OSError, BotoCoreError, ClientError, aiohttp.ClientError, HTTPError, ResponseParserError, RuntimeError)
# ConnectionError and TimeoutError are the system's; fsspec and s3fs raise them as well
_UNAVAILABLE_TYPES = (
    BotoConnectionError,
    HTTPClientError,
    ResponseParserError,
    aiohttp.ClientError,
    HTTPError,
    ConnectionError,
    TimeoutError,
    # the object changed while it was read
    FileExpired,
)
_EXPIRED_TYPES = (
    CredentialRetrievalError,
    MetadataRetrievalError,
    SSOTokenLoadError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
_UNAVAILABLE_CODES = frozenset(
    {
        "BandwidthLimitExceeded",
        "InternalError",
        "OperationAborted",
        "PriorRequestNotComplete",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "RequestTimeoutException",
        # clocks that differ are set right again
        "RequestTimeTooSkewed",
        "ServiceUnavailable",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)
_EXPIRED_CODES = frozenset(
    {
        # the whole answer to a HEAD request, which has no body to name the reason in
        "400",
        "ExpiredToken",
        "ExpiredTokenException",
        "RequestExpired",
        "TokenRefreshRequired",
    }
)
_DENIED_CODES = frozenset({"403", "AccessDenied", "AllAccessDisabled", "Forbidden", "InvalidAccessKeyId"})
_DENIED_CODES |= {"InvalidToken", "SignatureDoesNotMatch", "UnauthorizedAccess"}
_TOO_MANY_REQUESTS, _REQUEST_TIMEOUT, _NOT_IMPLEMENTED = 429, 408, 501


def meaning_of(error: BaseException) -> Meaning:
    """What an error that s3fs, botocore or aiohttp raised means, whichever of them wrapped it."""
    for cause in _causes(error):
        # aiobotocore's wording for a role whose new credentials are late
        if isinstance(cause, _EXPIRED_TYPES) or (isinstance(cause, RuntimeError) and "still expired" in str(cause)):
            return Meaning.EXPIRED
        if isinstance(cause, (NoCredentialsError, PartialCredentialsError)):
            return Meaning.NO_CREDENTIALS
        if isinstance(cause, ClientError):
            return _meaning_of_answer(cause)
        if isinstance(cause, _UNAVAILABLE_TYPES):
            return Meaning.UNAVAILABLE
    if isinstance(error, PermissionError):
        return Meaning.DENIED
    if isinstance(error, FileNotFoundError) and "bucket does not exist" in str(error):
        return Meaning.NO_BUCKET
    return Meaning.OTHER


def _meaning_of_answer(error: ClientError) -> Meaning:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _EXPIRED_CODES:
        return Meaning.EXPIRED
    if status == 412 or code in ("ConditionalRequestConflict", "PreconditionFailed", "412"):
        return Meaning.CONDITION_FAILED
    if code in _UNAVAILABLE_CODES or status in (_TOO_MANY_REQUESTS, _REQUEST_TIMEOUT):
        return Meaning.UNAVAILABLE
    if code in _DENIED_CODES or status == 403:
        return Meaning.DENIED
    if code == "NoSuchBucket":
        return Meaning.NO_BUCKET
    return Meaning.UNAVAILABLE if status >= 500 and status != _NOT_IMPLEMENTED else Meaning.OTHER


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from: s3fs turns botocore's errors into OSError, not always with their cause."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
