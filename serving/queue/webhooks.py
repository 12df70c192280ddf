"""Tell another host that a job ended: signed, only to hosts the configuration names, off unless it names some.

A receiver checks the header X-Musubi-Signature, "t=SECONDS,v1=HEX" with HEX the HMAC-SHA256 of "SECONDS.BODY":

    if not webhooks.verify(secret, request.headers["X-Musubi-Signature"], body): refuse

An address is resolved once, every answer must be a public one, and that very answer is connected to, so that a name
that changes its mind between the check and the call reaches nothing inside. Redirects are not followed.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ipaddress
import json
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from musubi_ext.errors import UserError

HEADER = "X-Musubi-Signature"
LONGEST_URL = 2_000
TIMEOUT = 10.0  # seconds, to connect and for each read
TOLERANCE = 300.0  # seconds a signature stays good
_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that is routed on the open internet


class DeliveryError(Exception):
    """The receiver was not reached or did not answer 2xx; worth another attempt."""


class RefusedAddressError(Exception):
    """The host resolves to an address that webhooks may not reach; not worth another attempt."""


@dataclass(frozen=True)
class Webhooks:
    """`hosts`: exact names, lower case. `private`: also plain http and private addresses."""

    hosts: tuple[str, ...]
    secret: str
    private: bool = False

    def check(self, url: str) -> str:
        """`url`, if it may be called. Raises UserError."""
        if not self.hosts:
            raise UserError("webhook: webhooks are off on this service (ask for the job's state instead)")
        if len(url) > LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url:
            raise UserError(f"webhook: expected an address of at most {LONGEST_URL} printable ASCII characters")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise UserError("webhook: expected an address such as https://HOST/PATH") from error
        schemes = ("https", "http") if self.private else ("https",)
        if parts.scheme not in schemes or not parts.hostname:
            raise UserError(f"webhook: expected {' or '.join(schemes)}://HOST/PATH")
        if parts.username is not None or parts.password is not None or parts.fragment:
            raise UserError("webhook: expected no user, password or fragment in the address")
        if parts.hostname not in {host.lower() for host in self.hosts}:
            raise UserError("webhook: this host is not one that the service may call")
        if not self.private and port not in (None, 443):
            raise UserError("webhook: expected port 443")
        return url

    def deliver(self, url: str, payload: dict[str, Any], delivery: str) -> None:
        """POST `payload` as JSON. Raises DeliveryError, or RefusedAddressError or UserError when it must not be."""
        parts = urlsplit(self.check(url))
        body = json.dumps(payload, allow_nan=False, separators=(",", ":")).encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "musubi-ext",
            "X-Musubi-Delivery": delivery,
            HEADER: sign(self.secret, body),
        }
        try:
            status = self._post(parts, body, headers)
        except (OSError, http.client.HTTPException) as error:
            raise DeliveryError(f"{parts.hostname}: {type(error).__name__}") from error
        if not 200 <= status < 300:
            raise DeliveryError(f"{parts.hostname}: answered {status}")

    def _post(self, parts: SplitResult, body: bytes, headers: dict[str, str]) -> int:
        assert parts.hostname is not None
        port = parts.port or (443 if parts.scheme == "https" else 80)
        raw = socket.create_connection((self._address(parts.hostname, port), port), TIMEOUT)
        if parts.scheme == "https":
            try:
                raw = ssl.create_default_context().wrap_socket(raw, server_hostname=parts.hostname)
            except BaseException:
                raw.close()
                raise
        connection = http.client.HTTPConnection(parts.hostname, port, timeout=TIMEOUT)
        connection.sock = raw
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("POST", path, body=body, headers=headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def _address(self, host: str, port: int) -> str:
        found = {str(answer[4][0]) for answer in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        if not self.private:
            for address in found:
                if not _public(address):
                    raise RefusedAddressError(f"{host} resolves to an address that is not public")
        return sorted(found)[0]


def _public(address: str) -> bool:
    """Whether an address is one of the open internet, also when an IPv6 address carries an IPv4 one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None) or _nat64(ip)
        if inner is not None:
            return _public(str(inner))
        if ip not in _UNICAST:  # what may carry an IPv4 address inside in other ways, and site-local ones
            return False
    return ip.is_global and not ip.is_multicast


def _nat64(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    within = ip in ipaddress.IPv6Network("64:ff9b::/96")
    return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if within else None


def sign(secret: str, body: bytes, at: float | None = None) -> str:
    """The signature header of `body`."""
    seconds = int(time.time() if at is None else at)
    return f"t={seconds},v1={_mac(secret, seconds, body)}"


def verify(secret: str, header: str, body: bytes, now: float | None = None) -> bool:
    """Whether `header` signs `body`, not longer than TOLERANCE ago."""
    fields = dict(part.split("=", 1) for part in header.split(",") if "=" in part)
    stamp, mac = fields.get("t", ""), fields.get("v1", "")
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) < 16):
        return False
    fresh = abs((time.time() if now is None else now) - int(stamp)) <= TOLERANCE
    return hmac.compare_digest(_mac(secret, int(stamp), body).encode(), mac.encode()) and fresh


def _mac(secret: str, seconds: int, body: bytes) -> str:
    return hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
