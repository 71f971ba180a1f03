"""Fingerprints of keys, as gpg names them."""

from pathlib import Path

import pytest
from ansible.module_utils.llm.docker import openpgp

# Made with gpg for this test: a primary key and a subkey, whose fingerprint is not asked for.
KEY = (Path(__file__).parents[1] / "data" / "stand-in-key.asc").read_text(encoding="utf-8")
FINGERPRINT = "4D1F1392BB34B98A1F5F6DED7A23C532288A7C59"


def test_the_primary_key_counts() -> None:
    assert openpgp.fingerprints(KEY) == [FINGERPRINT]


def test_every_key_in_a_file_counts() -> None:
    assert openpgp.fingerprints(KEY + KEY.replace("\n", "\r\n")) == [FINGERPRINT, FINGERPRINT]


def test_headers_of_the_armour_are_no_content() -> None:
    first, rest = KEY.split("\n", 1)
    assert openpgp.fingerprints(f"{first}\nVersion: GnuPG v1\nComment: x\n{rest}") == [FINGERPRINT]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>not found</html>",
        KEY[:400],
        KEY.replace("mQ", "aQ", 1),
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n-----END PGP PUBLIC KEY BLOCK-----",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"key|armour|packets"):
        openpgp.fingerprints(text)
