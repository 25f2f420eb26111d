"""One JSON request to a model server, with failures told apart: those that may pass, and others."""

from typing import Any

import requests

_PASSING = (408, 429, 500, 502, 503, 504)


class PassingError(Exception):
    """The server is away, busy or failing, or its answer is no JSON: the same may work later."""


class RefusedRequestError(Exception):
    """The server says that the request is wrong; asking again would not help."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


def post_json(url: str, body: dict[str, Any], api_key: str | None, timeout_s: float) -> Any:
    """The decoded answer; None for an empty one.

    Raises:
        PassingError, RefusedRequestError.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        response = requests.post(url, json=body, headers=headers, timeout=timeout_s)
    except requests.RequestException as error:
        raise PassingError(type(error).__name__) from error
    if response.status_code in _PASSING:
        raise PassingError(f"HTTP {response.status_code}")
    if response.status_code != 200:
        raise RefusedRequestError(response.status_code)
    if not response.content:
        return None
    try:
        return response.json()
    except ValueError as error:
        raise PassingError("no JSON") from error
