"""A database's URL is taken as it is meant, or refused."""

import pytest

from virtstatd.sending.postgres_url import Database, DatabaseHost


@pytest.mark.parametrize(
    ("url", "places", "session"),
    [
        ("postgresql://u@localhost:5433/x", [("localhost", 5433)], None),
        ("postgres://u@localhost/x", [("localhost", None)], None),
        ("postgresql:///x", [(None, None)], None),
        ("postgresql://u@[::1]:5432/x", [("::1", 5432)], None),
        ("postgresql://u@%2Frun%2Fpg/x", [("/run/pg", None)], None),
        ("postgresql:///x?host=/run/pg&port=5433", [("/run/pg", 5433)], None),
        ("postgresql://u@a:1,b:2/x", [("a", 1), ("b", 2)], "read-write"),
        ("postgresql:///x?host=a,[::1]:2", [("a", None), ("::1", 2)], "read-write"),
        ("postgresql:///x?host=a,b&port=7", [("a", 7), ("b", 7)], "read-write"),
        ("postgresql:///x?host=a,b&port=7,8", [("a", 7), ("b", 8)], "read-write"),
        ("postgresql://a,b/x?target_session_attrs=any", [("a", None), ("b", None)], "any"),
        ("postgresql://a/x?search_path=b&application_name=c", [("a", None)], None),
    ],
)
def test_places(url: str, places: list[DatabaseHost], session: str | None):
    """Hosts are those of the URL in their order; of several, one that takes rows is wanted."""
    assert Database.of(url) == Database(tuple(places), session)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://localhost", "url: must be like postgresql://user@host:5432/name"),
        ("postgresql://localhost:x/", "url: must be like"),
        ("postgresql://localhost:0/", "url: must be like"),
        ("postgresql://a,/x", "url: must be like"),
        ("postgresql://a/x?port=1,2", "url: must be like"),
        ("postgresql://::1/x", "url: must be like"),
        ("postgresql://a/x?sslmode", "url: must be like"),
        ("postgresql://u:p@localhost/", "url: the password belongs into password_file"),
        ("postgresql://u@localhost/?password=p", "url: password is not taken; the password"),
        ("postgresql://a/x?passfile=/p", "url: passfile is not taken"),
        ("postgresql://a/x?service=s", "url: service is not taken"),
        ("postgresql://a/x?sslmode=verify-full", "url: sslmode belongs into the options: tls = t"),
        ("postgresql://a/x?sslmode=disable", "url: sslmode belongs into the options"),
        ("postgresql://a/x?sslrootcert=/a", "url: sslrootcert belongs into the options"),
        ("postgresql://a/x?sslnegotiation=direct", "url: sslnegotiation belongs into the options"),
        ("postgresql://a/x?channel_binding=require", "url: channel_binding belongs into"),
        ("postgresql://a/x?require_auth=scram-sha-256", "url: require_auth belongs into"),
        ("postgresql://a/x?hostaddr=1.2.3.4", "url: hostaddr is not known here"),
        ("postgresql://a/x?target_session_attrs=red", "url: target_session_attrs must be one of"),
    ],
)
def test_what_is_not_taken(url: str, fault: str):
    """What cannot be kept is refused, and no secret is in the reason."""
    with pytest.raises(ValueError, match=fault) as caught:
        Database.of(url)
    assert url not in str(caught.value)
