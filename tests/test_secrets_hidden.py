import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydd import secrets_hidden
from raydd.secrets_hidden import hidden, hide_password, remember, remember_command_secrets, secrets_of

SECRET = "s3cr3t-P4ss"


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets_hidden, "_known_secrets", set())


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
        (f"https://{SECRET}:@host/", "https://***:@host/"),
        (f"databricks://{SECRET}@host", "databricks://***@host"),
        (f"https://host/?jwt={SECRET}&sas={SECRET}#bearer={SECRET}", "https://host/?jwt=***&sas=***#bearer=***"),
        (f"postgresql://h/x?pass%77ord={SECRET}", "postgresql://h/x?pass%77ord=***"),
        (f"postgresql://h/x?options=-c%20password={SECRET}", "postgresql://h/x?options=***"),
        (f"mssql+pyodbc:///?odbc_connect=UID%3Du%3BPWD%3D{SECRET}", "mssql+pyodbc:///?odbc_connect=***"),
        (f"s3://b/x?endpoint_override=http://u:{SECRET}@h", "s3://b/x?endpoint_override=***"),
        (f"s3://b/x?endpoint=https%3A%2F%2Fu%3A{SECRET}%40h", "s3://b/x?endpoint=***"),
        ("s3://b/x?endpoint_override=http://h:9000", "s3://b/x?endpoint_override=http://h:9000"),
        (f"u:{SECRET}@host/x", "u:***@host/x"),
        (f"//u:{SECRET}@host/x", "//u:***@host/x"),
        (f"postgresql:/u:{SECRET}@host/x", "postgresql:/u:***@host/x"),
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
    for said in (
        f"dsn host=h password={SECRET} x",
        f"at https://h/x?token={SECRET}, gone",
        f"'password': '{SECRET}'",
        f"PGPASSWORD={SECRET}",
        f'{{"aws_secret_access_key": "{SECRET}"}}',
        f"Authorization: Bearer {SECRET}",
    ):
        assert SECRET[:5] not in hidden(said)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("X-Api-Key: abcd1234, gone", "X-Api-Key: ***, gone"),
        ("Access-Key: zzzz", "Access-Key: ***"),
        ("private_key=k1 secret_key=k2 x", "private_key=*** secret_key=*** x"),
        ('{"password": "a b c", "user": "u"}', '{"password": "***", "user": "u"}'),
        (
            r"""{"token": "a \" b", 'secret': 'it\'s', 'pwd': b'a b'}""",
            """{"token": "***", 'secret': '***', 'pwd': b'***'}""",
        ),
        ('token="a b\nthe next line', 'token="***\nthe next line'),
        ("'Authorization': 'Bearer a b'", "'Authorization': 'Bearer ***'"),
        ("Proxy-Authorization: Basic abc==", "Proxy-Authorization: Basic ***"),
        ("--hf-token=abc", "--hf-token=***"),
    ],
)
def test_what_is_assigned_to_the_name_of_a_secret_is_redacted_as_a_whole(said: str, shown: str) -> None:
    assert hidden(said) == shown
    assert hidden(shown) == shown


@pytest.mark.parametrize(
    "said", ["max_token: 77", "pad_token=[PAD]", '"eos_token": "</s>"', "sep-token: x", "max_tokens=5", 'password=""']
)
def test_what_only_sounds_like_a_secret_is_shown(said: str) -> None:
    assert hidden(said) == said


@pytest.mark.parametrize(
    "name",
    ["PGPASSWORD", "HF_TOKEN", "MYSQL_PWD", "DATABRICKS_CLIENT_SECRET", "X_API_KEY", "S3_SECRET_KEY", "MY_PRIVATE_KEY"],
)
def test_a_variable_s_name_says_that_it_holds_a_secret(name: str) -> None:
    remember_command_secrets([], {name: SECRET, "TOKENIZERS_PARALLELISM": "false", "OLDPWD": "/home"})
    assert hidden(f"signed by {SECRET} in /home: false") == "signed by *** in /home: false"


@given(st.text("abc@/:?#[]%&= ", min_size=4, max_size=12))
def test_no_password_is_shown_whatever_is_in_it(tail: str) -> None:
    from urllib.parse import quote

    for password in (quote(f"{SECRET}{tail}", safe=""), quote(f"{SECRET}{tail}", safe="/?:")):
        address = f"postgresql://user:{password}@host/name"
        assert SECRET not in hide_password(address)
        assert SECRET not in hidden(f"cannot reach {address} now")


def test_a_long_message_takes_no_time() -> None:
    start = time.monotonic()
    for part in ("a", "a-", "pad_", "_token", "token=", 'password="'):
        hidden(part * 20_000)
    assert time.monotonic() - start < 3
    assert hidden(f"{'a' * 99}https://u:{SECRET}@h") == f"{'a' * 99}https://u:***@h"
