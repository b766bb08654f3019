"""Hashed passwords."""

import bcrypt
import pytest

from virtstatd.serving.passwords import fault_of, made, matches


LONG = "p" * 100


@pytest.mark.parametrize("password", ["secret", "", "pä ss:word", LONG])
def test_a_hash_is_that_of_its_password_alone(password: str):
    """What was made for a password matches it, no other one, and is made anew each time."""
    hashed = made(password)
    assert fault_of(hashed) == ""
    assert matches(password, hashed)
    assert not matches(password + "x", hashed)
    assert made(password) != hashed


@pytest.mark.parametrize("password", ["secret", LONG])
@pytest.mark.parametrize("kind", ["2a", "2b", "2y"])
def test_bcrypt_as_htpasswd_writes_it(password: str, kind: str):
    """Hashes of bcrypt match, also those of passwords of which bcrypt reads the beginning."""
    hashed = bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(4)).decode()
    hashed = hashed.replace("$2b$", f"${kind}$")
    assert fault_of(hashed) == ""
    assert matches(password, hashed)
    assert not matches("other", hashed)


@pytest.mark.parametrize(
    ("hashed", "fault"),
    [
        ("", "must be a hash"),
        ("secret", "must be a hash"),
        ("$1$abc$def", "must be a hash"),
        (f"$2y$31${'a' * 53}", "cost from 4 to 15"),
        (f"$2y$10${'a' * 52}", "must be a hash"),
        (f"$scrypt$ln=25,r=8,p=1${'a' * 22}${'a' * 43}", "more memory or time"),
        (f"$scrypt$ln=14,r=8,p=99${'a' * 22}${'a' * 43}", "more memory or time"),
        (f"$scrypt$ln=0,r=0,p=0${'a' * 22}${'a' * 43}", "more memory or time"),
    ],
)
def test_what_is_no_hash_or_too_dear(hashed: str, fault: str):
    """A password in the clear is refused, and so is what would take minutes of CPU time."""
    assert fault in fault_of(hashed)
