"""Fingerprints of OpenPGP keys, so that a repository's key can be checked on a host that has no gpg yet.

Neither gpg nor a library is there before the first package is installed. The alternative, keys kept in this repository, would
make a key's renewed subkeys wait for a release of ours; a fingerprint stays the same.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

PUBLIC_KEY = 6  # tag of a primary key's packet; subkeys have another


def fingerprints(armored: str) -> list[str]:
    """Fingerprints (40 upper case hex digits) of the primary keys in ASCII-armoured text. Raises ValueError for anything else.

    Version 4 keys (RFC 4880): SHA-1 over 0x99, the packet's length in two bytes, and its body.
    """
    found = []
    for tag, body in _packets(_dearmor(armored)):
        if tag != PUBLIC_KEY:
            continue
        if not body or body[0] != 4:
            raise ValueError(f"a key of version {body[0] if body else 'none'}, only version 4 is known")
        digest = hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False)
        found.append(digest.hexdigest().upper())
    if not found:
        raise ValueError("no public key in it")
    return found


def _dearmor(text: str) -> bytes:
    blocks = re.findall(
        r"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(.*?)-----END PGP PUBLIC KEY BLOCK-----", text, re.DOTALL
    )
    if not blocks:
        raise ValueError("no ASCII-armoured public key")
    content = b""
    for block in blocks:
        # Headers end with an empty line; a last line that begins with = is a checksum.
        body = re.sub(r"\A(?:[^\n]*: [^\n]*\n)*\s*\n", "", block)
        lines = [line.strip() for line in body.splitlines()]
        try:
            content += base64.b64decode("".join(line for line in lines if not line.startswith("=")), validate=True)
        except binascii.Error as error:
            raise ValueError(f"damaged armour: {error}") from error
    return content


def _packets(content: bytes) -> list[tuple[int, bytes]]:
    """[(tag, body)] of both header formats; partial lengths, which keys don't have, are refused."""
    found, at = [], 0
    try:
        while at < len(content):
            head = content[at]
            if not head & 0x80:
                raise ValueError("damaged packets")
            if head & 0x40:
                tag, first = head & 0x3F, content[at + 1]
                if first < 192:
                    size, start = first, at + 2
                elif first < 224:
                    size, start = ((first - 192) << 8) + content[at + 2] + 192, at + 3
                elif first == 255:
                    size, start = int.from_bytes(content[at + 2 : at + 6], "big"), at + 6
                else:
                    raise ValueError("packets in parts")
            else:
                tag, width = (head >> 2) & 0x0F, (1, 2, 4, 0)[head & 3]
                start = at + 1 + width
                size = int.from_bytes(content[at + 1 : start], "big") if width else len(content) - start
            found.append((tag, content[start : start + size]))
            at = start + size
    except IndexError as error:
        raise ValueError("damaged packets") from error
    return found
