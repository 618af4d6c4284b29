"""MLflow's server behind a password."""

import asyncio

import pytest

from cluster.local.tracking_app import basic_authorization, behind_password

RIGHT = basic_authorization("me", "secret").encode()


def statuses(scope: dict) -> list[dict]:
    """What is sent in answer to a request; the application behind the password answers with 200."""
    sent: list[dict] = []

    async def application(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message) -> None:
        sent.append(message)

    async def receive() -> dict:
        return {}

    asyncio.run(behind_password(application, "me", "secret")(scope, receive, send))
    return sent


def test_the_right_password_is_let_through():
    (answer,) = statuses({"type": "http", "headers": [(b"host", b"x"), (b"authorization", RIGHT)]})

    assert answer["status"] == 200


@pytest.mark.parametrize(
    "headers", [[], [(b"authorization", b"")], [(b"authorization", b"Bearer x")], [(b"authorization", RIGHT[:-4])],
                [(b"authorization", b"\xff"), (b"authorization", RIGHT)]]
)  # fmt: skip
def test_everything_else_is_refused_and_browsers_are_told_to_ask(headers: list):
    start, body = statuses({"type": "http", "headers": headers})

    assert start["status"] == 401
    assert dict(start["headers"])[b"www-authenticate"].startswith(b"Basic")
    assert body["body"]


def test_a_web_socket_is_closed():
    assert statuses({"type": "websocket", "headers": []}) == [{"type": "websocket.close", "code": 1008}]


def test_the_start_of_the_server_needs_none():
    assert statuses({"type": "lifespan"})[0]["status"] == 200
