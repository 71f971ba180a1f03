"""A middleware of an operator's own: marks every answer."""

from typing import Any


class Mark:
    """Pure ASGI, as the engine wants it for streams."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass everything on, with one header more."""

        async def marked(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"x-marked-by", b"mark")]
            await send(message)

        await self.app(scope, receive, marked)
