"""MLflow's server behind a password: the application that ``mlflow server --app-name bulkformer`` runs.

MLflow's own accounts check each route by itself and let through those that they do not know; here one check stands
before all of them. Name and password are those of clients, ``MLFLOW_TRACKING_USERNAME`` and
``MLFLOW_TRACKING_PASSWORD`` in the server's environment. Browsers ask for them.
"""

from __future__ import annotations

import hmac
import os
from base64 import b64encode
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_REFUSAL = b"This MLflow server wants MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.\n"


def create_app() -> Application:
    # here, since it is the whole server: importing this module must not start one
    from mlflow.server.fastapi_app import app

    return behind_password(app, os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"])


def basic_authorization(user: str, password: str) -> str:
    """The value of an ``Authorization`` header."""
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def behind_password(application: Application, user: str, password: str) -> Application:
    """An ASGI application that passes on what carries the password and refuses everything else."""
    expected = basic_authorization(user, password).encode()

    async def guarded(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or hmac.compare_digest(_authorization(scope), expected):
            await application(scope, receive, send)
        elif scope["type"] == "http":
            headers = [
                (b"content-type", b"text/plain"),
                (b"www-authenticate", b'Basic realm="MLflow of this user"'),
                (b"content-length", str(len(_REFUSAL)).encode()),
            ]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": _REFUSAL})
        else:
            await send({"type": "websocket.close", "code": 1008})

    return guarded


def _authorization(scope: Message) -> bytes:
    return next((bytes(value) for name, value in scope.get("headers", ()) if name == b"authorization"), b"")
