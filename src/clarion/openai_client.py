"""One client of servers that speak OpenAI's protocol, for whatever asks them: evaluation and generation alike.

A server on this machine is spoken to directly: no proxy of the environment and no redirect carries a request to it
elsewhere. Private data, and data of a kind that nobody named, go to no other machine unless send_private=true says so.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from clarion.errors import ClarionError, DataError, UsageError


class Rejected(UsageError):
    """The server refuses the fields of a request (HTTP 400 or 422)."""


class Server:
    """One model on one server. Every failure ends in one sentence that names the server.

    where: how errors name the settings; served: how they name the model's."""

    def __init__(
        self,
        base_url: str,
        served: str,
        key_env: str,
        timeout_s: float,
        retries: int,
        where: str = "model",
        named: str = "served",
    ):
        self.url, self.served, self.key_env = base_url.rstrip("/"), served, key_env
        self.where, self.named = where, named
        self._settings = {"timeout": timeout_s, "max_retries": retries}
        self._client: Any = None

    @property
    def client(self) -> Any:
        """The openai library's client, made at the first request."""
        if self._client is None:
            from openai import DefaultHttpxClient, OpenAI

            # The library insists on a key; servers of one's own look at none.
            key = os.environ.get(self.key_env or "") or "none"
            http = DefaultHttpxClient(trust_env=not self.local, follow_redirects=not self.local)
            # The address is given in full, so that no variable of the environment sends the requests elsewhere.
            self._client = OpenAI(base_url=self.url, api_key=key, http_client=http, **self._settings)
        return self._client

    @property
    def host(self) -> str:
        """Address without path, user or password."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def local(self) -> bool:
        """Whether requests stay on this machine."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def admit(self, data_kind: str | None, send_private: bool) -> None:
        """Raise UsageError where data of this kind (None: unknown, so private) must not leave this machine."""
        if self.local or send_private or data_kind in ("public", "phantom"):
            return
        what = "private data" if data_kind == "private" else "data of an unknown kind, which count as private,"
        raise UsageError(
            f"{what} would be sent to {self.url}: use a server on this machine, or allow it with "
            f"{self.where}.send_private=true."
        )

    def call(self, what: Callable[[], Any], about: str = "the list of models") -> Any:
        """what() with the library's exceptions turned into one sentence."""
        import openai

        try:
            return what()
        except openai.APITimeoutError:
            raise ClarionError(
                f"{self.url} did not answer in time about {about}: raise {self.where}.timeout_s."
            ) from None
        except openai.APIConnectionError as error:
            why = " ".join(str(error.__cause__ or error).split())
            raise ClarionError(
                f"no server answers at {self.url} ({why}): start it, or correct {self.where}.base_url."
            ) from None
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise UsageError(
                f"{self.url} refuses the key ({error.status_code}): put a valid one into the environment variable "
                f"{self.key_env}."
            ) from None
        except openai.NotFoundError as error:
            raise UsageError(
                f"{self.url} does not know the model or path ({said(error)}): check "
                f"{self.where}.{self.named}={self.served} and that {self.where}.base_url ends in /v1 where the server "
                "wants it."
            ) from None
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            raise Rejected(f"{self.url} rejects the request about {about}: {said(error)}") from None
        except openai.APIStatusError as error:
            redirected = " (redirects are not followed)" if 300 <= error.status_code < 400 else ""
            raise ClarionError(
                f"{self.url} failed on {about}: {error.status_code}{redirected}, {said(error)}"
            ) from None
        except (openai.APIError, ValueError) as error:  # an answer that is no JSON
            raise DataError(f"{self.url} sent a malformed answer about {about} ({said(error)}).") from None

    def choice(self, answer: Any, about: str) -> Any:
        """The first choice of an answer. Raises DataError where it holds none."""
        choices = getattr(answer, "choices", None)
        if not choices:
            raise DataError(
                f"{self.url} sent a malformed answer about {about}: it holds no choices; check that "
                f"{self.where}.base_url ends in /v1 where the server wants it."
            )
        return choices[0]

    def check(self) -> None:
        """Raise unless the server answers and knows the model (where it lists any)."""
        from clarion.config import nearest

        listed = self.call(lambda: self.client.models.list())
        known = [str(m.id) for m in getattr(listed, "data", None) or []]
        if known and self.served not in known:
            raise UsageError(
                f"{self.where}.{self.named}={self.served}: {self.url} serves no such model."
                f"{nearest(self.served, known)} It has: {', '.join(known[:8])}."
            )


def said(error: Exception) -> str:
    """The beginning of an exception's text, on one line."""
    return " ".join(str(error).split())[:200]
