"""What an error of an object store can mean: whether to try again, and with which credentials."""

from __future__ import annotations

import enum


class Meaning(enum.Enum):
    """What to do about an error of an object store."""

    UNAVAILABLE = "try again: the store, or the way to it, is down or overloaded"
    EXPIRED = "try again with new credentials"
    NO_CREDENTIALS = "there are none"
    DENIED = "the credentials do not allow it"
    NO_BUCKET = "the bucket does not exist"
    CONDITION_FAILED = "the object is not what a conditional write asks for"
    OTHER = "trying again does not help"
