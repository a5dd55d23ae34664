"""serve-admin: passwords never in arguments, tokens shown once, and what it changes holds for a running service."""

import io
import sqlite3
import stat
from pathlib import Path

import pytest

from rsna_e2e.cli import main
from rsna_e2e.service.accounts import ACCESS_FILE, Accounts
from rsna_e2e.service.audit import Audit

PASSWORD = "correct horse battery"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsna_e2e.service.passwords._N", 2)  # scrypt is tested elsewhere


def admin(data: Path, words: str, *, stdin: str = "", code: int = 0) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.StringIO(stdin))
        assert main(["serve-admin", "--data", str(data), *words.split()]) == code


def test_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "service" / "data"
    admin(data, "user add anna --role read", stdin=f"{PASSWORD}\r\n")
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    admin(data, "user add bob@example.org --role admin --no-password")
    with Accounts(data / ACCESS_FILE) as accounts:
        assert accounts.login("anna", PASSWORD, address="") is not None
    admin(data, "user password anna", stdin="another horse battery\n")
    with Accounts(data / ACCESS_FILE) as accounts:
        assert accounts.login("anna", PASSWORD, address="") is None
        assert accounts.login("anna", "another horse battery", address="") is not None
    capsys.readouterr()
    admin(data, "user list")
    assert capsys.readouterr().out.splitlines()[2:] == [
        "anna              read    password",
        "bob@example.org  admin       proxy",
    ]
    admin(data, "user remove anna")
    with Accounts(data / ACCESS_FILE) as accounts:
        assert [user.name for user in accounts.users()] == ["bob@example.org"]
    with Audit(data / ACCESS_FILE) as audit:
        rows = [(row["actor"], row["action"], row["outcome"]) for row in audit.last(9)]
    outcomes = ("user added: anna read", "user added: bob@example.org admin", "password changed: anna")
    assert rows == [("@machine", "admin", outcome) for outcome in (*outcomes, "user removed: anna")]


def test_a_password_is_asked_for_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [PASSWORD, "something different", PASSWORD, PASSWORD]
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("getpass.getpass", lambda prompt: answers.pop(0))
    command = ["serve-admin", "--data", str(tmp_path), "user", "add", "anna", "--role", "read"]
    assert main(command) == 2
    assert "the two passwords differ" in capsys.readouterr().err
    assert main(command) == 0
    said = capsys.readouterr()
    assert PASSWORD not in said.out + said.err


def test_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    admin(tmp_path, "token add pacs --role upload --days 2")
    secret = capsys.readouterr().out.strip()
    with Accounts(tmp_path / ACCESS_FILE) as accounts:
        caller = accounts.caller_of_token(secret)
        (token,) = accounts.tokens()
    assert caller is not None
    assert (caller.name, caller.role) == ("pacs", "upload")
    assert token.expires is not None
    assert token.used is not None
    assert 0 <= token.expires - token.used - 2 * 24 * 3600 + 10 <= 10
    admin(tmp_path, "token add link --role admin --once")
    once = capsys.readouterr().out.strip()
    admin(tmp_path, "token list")
    said = capsys.readouterr().out
    assert [line.split()[:4] for line in said.splitlines()[2:]] == [
        ["link", "admin", "one", "login"],
        ["pacs", "upload", "requests", said.splitlines()[3].split()[3]],
    ]
    assert secret not in said
    assert once not in said
    admin(tmp_path, "token revoke pacs")
    with Accounts(tmp_path / ACCESS_FILE) as accounts:
        assert accounts.caller_of_token(secret) is None


def test_the_audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("first", "second", "third"):
        admin(tmp_path, f"token add {name} --role read")
    capsys.readouterr()
    admin(tmp_path, "audit show --last 2")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["number", "------", "2", "3"]
    assert "token added: third read" in lines[3]
    admin(tmp_path, "audit verify")
    first, known = capsys.readouterr().out.splitlines()
    assert first == "3 rows, all as they were written"
    admin(tmp_path, f"audit verify --known {known.split()[1]}")
    admin(tmp_path, "audit verify --known 3", code=2)
    capsys.readouterr()
    connection = sqlite3.connect(tmp_path / ACCESS_FILE)
    connection.execute("UPDATE audit SET outcome = 'nothing' WHERE number = 2")
    connection.commit()
    connection.close()
    admin(tmp_path, "audit verify", code=3)
    assert "row 2 of the audit: it is not what was written. Those before it" in capsys.readouterr().err


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for words, code in (
        ("user list", 3),
        ("user add Anna --role read", 2),
        ("user add anna --role read", 2),  # no password on stdin
        ("token revoke nobody", 3),
    ):
        admin(tmp_path, words, stdin="" if "anna" in words else PASSWORD, code=code)
        said.append(capsys.readouterr().err)
    assert all(line.count("\n") == 1 for line in said)
    assert "nobody may use a service here yet" in said[0]
    assert "no token of this name" in said[3]
    (tmp_path / ACCESS_FILE).write_bytes(b"no database" * 100)
    admin(tmp_path, "user list", code=3)
    assert "file is not a database" in capsys.readouterr().err


@pytest.mark.needs_serve
@pytest.mark.parametrize(
    ("words", "most"),
    [("token add pacs --role read --days {}", 36_500), ("audit show --last {}", 1_000_000)],
)
def test_numbers_have_an_end(words: str, most: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beyond which dates cannot be shown, and a database has no such number."""
    admin(tmp_path, "token add first --role read")
    admin(tmp_path, words.format(most))
    admin(tmp_path, "token list")
    for number in (most + 1, 10**23):
        with pytest.raises(SystemExit) as end:
            admin(tmp_path, words.format(number))
        assert end.value.code == 2
        assert f"'{number}' is more than {most}, the most there may be" in capsys.readouterr().err


def test_what_changes_holds_for_a_running_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from guarded import OWN_PAGE, served  # the libraries of the extra

    with served(tmp_path) as service, service.client() as client:
        admin(tmp_path, "token add pacs --role read")
        bearer = {"Authorization": f"Bearer {capsys.readouterr().out.strip()}"}
        assert client.get("/api/v1/me", headers=bearer).json()["name"] == "pacs"
        admin(tmp_path, "token revoke pacs")
        assert client.get("/api/v1/me", headers=bearer).status_code == 401
        admin(tmp_path, "user add carl --role upload", stdin=PASSWORD)
        login = {"name": "carl", "password": PASSWORD}
        assert client.post("/api/v1/login", json=login, headers=OWN_PAGE).status_code == 200
        assert client.get("/api/v1/me").json()["role"] == "upload"
        admin(tmp_path, "user password carl", stdin="another horse battery")
        assert client.get("/api/v1/me").status_code == 401
        admin(tmp_path, "audit verify")
