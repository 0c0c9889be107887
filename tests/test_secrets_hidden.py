import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydd import secrets_hidden
from raydd.secrets_hidden import hidden, hide_password, remember, secrets_of

SECRET = "s3cr3t-P4ss"


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets_hidden, "_known", set())


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (f"postgresql://raydd:{SECRET}@host/raydd", "postgresql://raydd:***@host/raydd"),
        (
            f"postgresql+psycopg://u:{SECRET}@h:5432/x?sslmode=require",
            "postgresql+psycopg://u:***@h:5432/x?sslmode=require",
        ),
        (f"postgresql://h/x?user=u&password={SECRET}", "postgresql://h/x?user=u&password=***"),
        (f"https://{SECRET}@host/", "https://***@host/"),
        (f"https://u:{SECRET}@host/", "https://u:***@host/"),
        (f"https://host/?token={SECRET}", "https://host/?token=***"),
        (f"https://host/a?x=1&api_key={SECRET}#y", "https://host/a?x=1&api_key=***#y"),
        (f"mysql://u:{SECRET}/with?odd#marks@h/x", "mysql://u:***@h/x"),
        (f"postgresql://u:{SECRET}[@h/x", "postgresql://u:***@h/x"),
        (f"postgresql://u:a@{SECRET}@h/x", "postgresql://u:***@h/x"),
        ("sqlite:////home/me/studies.db", "sqlite:////home/me/studies.db"),
        ("s3://bucket/a?region=eu-west-1", "s3://bucket/a?region=eu-west-1"),
        ("postgresql://u@h/x", "postgresql://u@h/x"),
        ("/a/folder:with@marks", "/a/folder:with@marks"),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_its_secrets(address: str, shown: str) -> None:
    assert hide_password(address) == shown
    assert bool(secrets_of(address)) == (SECRET in address)
    assert hide_password(shown) == shown


def test_what_a_driver_says_is_cleaned_too() -> None:
    remember(f"postgresql://u:{SECRET}%2F@host/x")
    assert SECRET not in hidden(f"FATAL: could not log in as u with {SECRET}/ on host")
    assert hidden("no trouble at host") == "no trouble at host"
    for said in (f"dsn host=h password={SECRET} x", f"at https://h/x?token={SECRET}, gone", f"'password': '{SECRET}'"):
        assert SECRET[:5] not in hidden(said) or "'password'" in said


@given(st.text("abc@/:?#[]%&= ", min_size=4, max_size=12))
def test_no_password_is_shown_whatever_is_in_it(tail: str) -> None:
    from urllib.parse import quote

    for password in (quote(f"{SECRET}{tail}", safe=""), quote(f"{SECRET}{tail}", safe="/?:")):
        address = f"postgresql://user:{password}@host/name"
        assert SECRET not in hide_password(address)
        assert SECRET not in hidden(f"cannot reach {address} now")
