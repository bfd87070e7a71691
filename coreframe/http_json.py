"""One address that takes JSON and answers JSON, asked again where that may help."""

from __future__ import annotations

import email.utils
import http.client
import json
import logging
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from coreframe.errors import EmbedderError

logger = logging.getLogger(__name__)

_AGAIN = {408, 409, 425, 429, *range(500, 600)}
_LONGEST = 60.0  # seconds between two tries
_SHOWN = 300  # characters of an answer that an error shows
_BROKEN = (
    OSError,  # of which URLError, TimeoutError, ConnectionError and ssl's errors are
    http.client.HTTPException,
)

sleep = time.sleep


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the key to another address."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


@dataclass(frozen=True, kw_only=True)
class Service:
    """An address, the key for it, and how patient we are."""

    url: str = field(kw_only=False)
    key: str | None = field(default=None, repr=False)
    timeout: float = 60.0
    retries: int = 6

    def post(self, body: Any) -> Any:
        """Return the answer to a body; raise EmbedderError, in which the key never stands."""
        data = json.dumps(body).encode()
        for attempt in range(self.retries + 1):
            problem, wait = self._try(data)
            if isinstance(problem, _Answer):
                return problem.value
            if wait is None or attempt == self.retries:
                tries = f" ({attempt + 1} tries)" if attempt else ""
                raise EmbedderError(self._without_key(f"{self.url} {problem}{tries}"))
            seconds = min(_LONGEST, max(wait, 2.0**attempt))
            logger.warning("%s", self._without_key(f"{self.url} {problem}; again in {seconds:g} s"))
            sleep(seconds)
        raise AssertionError("unreachable")

    def _try(self, data: bytes) -> tuple[Any, float | None]:
        """Return the answer, or what went wrong and the seconds to wait, None = never again."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self.url, data, headers, method="POST")
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=self.timeout) as answer:
                raw = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(error)
        except TimeoutError:
            return f"did not answer within {self.timeout:g} s", 0.0
        except _BROKEN as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                return f"did not answer within {self.timeout:g} s", 0.0
            return f"cannot be reached: {reason or type(reason).__name__}", 0.0
        try:
            return _Answer(json.loads(raw)), None
        except (ValueError, RecursionError):
            return f"answered what is no JSON: {_short(raw)}", 0.0

    def _refused(self, error: urllib.error.HTTPError) -> tuple[str, float | None]:
        try:
            raw = error.read(1 << 16)
        except _BROKEN:
            raw = b""
        code, said = error.code, _said(raw)
        text = f"refused with {code} {error.reason}" + (f": {said}" if said else "")
        if code in (301, 302, 303, 307, 308):
            where = error.headers.get("Location", "elsewhere")
            return f"redirects to {where}; give that as base_url if it is right", None
        if code in (401, 403):
            return f"{text}; look at the key, and at the variable that holds it", None
        if code == 413:
            return f"{text}; use a smaller batch_size", None
        if code not in _AGAIN or "insufficient_quota" in text:
            return text, None
        return text, _seconds(error.headers.get("Retry-After"))

    def _without_key(self, text: str) -> str:
        return text.replace(self.key, "***") if self.key else text


@dataclass(frozen=True)
class _Answer:
    value: Any


def _said(raw: bytes) -> str:
    """Return the message of an answer that refuses, and its code, as far as it has some."""
    try:
        found = json.loads(raw)
        error = found.get("error", found)
        if isinstance(error, dict):
            code = error.get("code") or error.get("type")
            text = str(error.get("message") or error.get("detail") or error)
            return _short(text.encode()) + (f" ({code})" if code else "")
        return _short(str(error).encode())
    except (ValueError, AttributeError, RecursionError):
        return _short(raw)


def _short(raw: bytes) -> str:
    text = " ".join(raw.decode("utf-8", "replace").split())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _seconds(header: str | None) -> float:
    """Return what Retry-After asks for, in seconds or as a date; 0 where it says nothing."""
    if not header:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0
