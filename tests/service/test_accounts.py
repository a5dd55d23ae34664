"""Users, tokens and sessions: what lets in, for how long, and what is kept of secrets."""

import sqlite3
import stat
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.service.accounts import IDLE_S, ONCE_S, SESSION_S, Accounts
from rsna_e2e.service.addresses import Networks, counted_as, plain
from rsna_e2e.service.callers import ROLES, Caller
from rsna_e2e.service.tries import MOST, WINDOW_S, TooManyTriesError

PASSWORD, OTHER = "correct horse battery", "another horse battery"
HERE = "192.0.2.1"


@dataclass
class Clock:
    now_s: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accounts(tmp_path: Path, clock: Clock) -> Iterator[Accounts]:
    with Accounts(tmp_path / "access.sqlite", clock=clock) as made:
        yield made


@pytest.fixture(autouse=True)
def few_rounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """scrypt of few rounds, unless how long it takes is the question."""
    if "full_rounds" not in request.fixturenames:
        monkeypatch.setattr("rsna_e2e.service.passwords._N", 2)


@pytest.fixture
def full_rounds() -> None:
    """Asks for all rounds."""


def logged_in(accounts: Accounts, name: str = "anna", password: str = PASSWORD, address: str = HERE) -> str:
    entry = accounts.login(name, password, address=address)
    assert entry is not None
    return entry.secret


def test_a_role_may_do_what_those_before_it_may() -> None:
    may = [[Caller(name="a", role=role, how="token").may(other) for other in ROLES] for role in ROLES]
    assert may == [[True, False, False], [True, True, False], [True, True, True]]


def test_a_user_logs_in_with_the_password_alone(accounts: Accounts) -> None:
    accounts.add_user("anna", "upload", PASSWORD)
    assert accounts.login("anna", OTHER, address=HERE) is None
    assert accounts.login("anna", "", address=HERE) is None
    assert accounts.login("nobody", PASSWORD, address=HERE) is None
    assert accounts.login("an\ud800na", "pass\ud800word", address=HERE) is None
    entry = accounts.login("Anna", PASSWORD, address="192.0.2.2")
    assert entry is not None
    assert entry.caller == Caller(name="anna", role="upload", how="login")
    assert accounts.caller_of_session(entry.secret) == entry.caller
    assert accounts.caller_of_session(entry.secret[:-1]) is None
    assert accounts.caller_of_token(entry.secret) is None


def test_accents_may_be_typed_in_two_ways(accounts: Accounts) -> None:
    accounts.add_user("anna", "read", "caf\u00e9 caf\u00e9 caf\u00e9")
    assert accounts.login("anna", "cafe\u0301 cafe\u0301 cafe\u0301", address=HERE) is not None


def test_only_a_proxy_lets_in_who_has_no_password(accounts: Accounts) -> None:
    accounts.add_user("anna@example.org", "read", None)
    assert accounts.login("anna@example.org", "", address=HERE) is None
    assert accounts.caller_by_proxy("Anna@example.org") == Caller(name="anna@example.org", role="read", how="proxy")
    assert accounts.caller_by_proxy("bob@example.org") is None
    assert [(user.name, user.has_password) for user in accounts.users()] == [("anna@example.org", False)]


@pytest.mark.parametrize("password", ["eleven long", "a" * 1025, "anna12345678", "ANNA-anna-1"])
def test_what_is_no_password_is_refused(accounts: Accounts, password: str) -> None:
    with pytest.raises(UsageError, match=r"a password has at least|little more than the name"):
        accounts.add_user("anna", "read", password)
    assert accounts.users() == []


@pytest.mark.parametrize("name", ["", "Anna", "a b", "-a", "a" * 65, "a\n", "../a", "ä"])
def test_what_is_no_name_is_refused(accounts: Accounts, name: str) -> None:
    with pytest.raises(UsageError, match="no name"):
        accounts.add_user(name, "read", PASSWORD)
    with pytest.raises(UsageError, match="no name"):
        accounts.add_token(name, "read")


def test_names_that_are_taken_or_nobodys(accounts: Accounts) -> None:
    accounts.add_user("anna", "read", PASSWORD)
    accounts.add_token("anna", "read")
    with pytest.raises(UsageError, match="a user already"):
        accounts.add_user("anna", "admin", OTHER)
    with pytest.raises(UsageError, match="a token already"):
        accounts.add_token("anna", "admin")
    for change in (accounts.remove_user, accounts.revoke_token, lambda name: accounts.set_password(name, OTHER)):
        with pytest.raises(BadInputError, match=r"bob: no (user|token) of this name"):
            change("bob")


def test_secrets_are_kept_as_hashes(accounts: Accounts, tmp_path: Path) -> None:
    accounts.add_user("anna", "read", PASSWORD)
    accounts.login("typed by mistake", OTHER, address=HERE)
    secrets = [accounts.add_token("pacs", "upload"), logged_in(accounts), PASSWORD, "typed by mistake", HERE]
    accounts.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"anna" in kept  # the search finds what is there
    assert [secret for secret in secrets if secret.encode() in kept] == []
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in tmp_path.iterdir())


def test_sessions_end(accounts: Accounts, clock: Clock) -> None:
    accounts.add_user("anna", "read", PASSWORD)
    idle, kept, over = (logged_in(accounts) for _ in range(3))
    accounts.end_session(over)
    assert accounts.caller_of_session(over) is None
    for _ in range(int(SESSION_S / IDLE_S * 2) - 1):
        clock.now_s += IDLE_S / 2
        assert accounts.caller_of_session(kept) is not None
        accounts.caller_of_session(idle, is_activity=False)
    assert accounts.caller_of_session(idle) is None
    clock.now_s += IDLE_S / 2 - 1
    assert accounts.caller_of_session(kept) is not None
    clock.now_s += 1
    assert accounts.caller_of_session(kept) is None  # 12 h


def test_idle_is_thirty_minutes(accounts: Accounts, clock: Clock) -> None:
    accounts.add_user("anna", "read", PASSWORD)
    secret = logged_in(accounts)
    clock.now_s += 30 * 60 - 1
    assert accounts.caller_of_session(secret, is_activity=False) is not None
    clock.now_s += 1
    assert accounts.caller_of_session(secret) is None


def test_sessions_end_with_the_user_or_the_password(accounts: Accounts) -> None:
    for name in ("anna", "bob"):
        accounts.add_user(name, "read", PASSWORD)
    of_anna, of_bob = logged_in(accounts), logged_in(accounts, "bob")
    accounts.set_password("anna", OTHER)
    assert accounts.caller_of_session(of_anna) is None
    assert accounts.login("anna", PASSWORD, address=HERE) is None
    assert accounts.caller_of_session(logged_in(accounts, password=OTHER)) is not None
    assert accounts.caller_of_session(of_bob) is not None
    accounts.remove_user("bob")
    assert accounts.caller_of_session(of_bob) is None


def test_a_user_that_is_removed_while_logging_in_is_not(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts.add_user("anna", "read", PASSWORD)

    def right_and_removed(password: str, kept: str | None) -> bool:
        accounts.remove_user("anna")
        return True

    monkeypatch.setattr("rsna_e2e.service.passwords.is_right", right_and_removed)
    assert accounts.login("anna", PASSWORD, address=HERE) is None


def test_tokens(accounts: Accounts, clock: Clock) -> None:
    forever, short = accounts.add_token("pacs", "upload"), accounts.add_token("trial", "read", expires_s=60)
    assert forever.startswith("rsna_")
    assert len(forever) == len("rsna_") + 43  # 256 bits in base64
    assert accounts.caller_of_token(forever) == Caller(name="pacs", role="upload", how="token")
    assert accounts.caller_of_token(forever.removeprefix("rsna_")) is None
    assert accounts.caller_of_token("") is None
    session = accounts.login_by_token(short, address=HERE)
    assert session is not None
    clock.now_s += 60
    assert accounts.caller_of_token(short) is None
    assert accounts.login_by_token(short, address=HERE) is None
    assert accounts.caller_of_session(session.secret) is None  # lives no longer than its token
    assert [(token.name, token.used) for token in accounts.tokens()] == [
        ("pacs", clock.now_s - 60),
        ("trial", clock.now_s - 60),
    ]
    accounts.revoke_token("pacs")
    assert accounts.caller_of_token(forever) is None


def test_a_session_ends_with_its_token(accounts: Accounts) -> None:
    entry = accounts.login_by_token(accounts.add_token("pacs", "upload"), address=HERE)
    assert entry is not None
    assert accounts.caller_of_session(entry.secret) is not None
    accounts.revoke_token("pacs")
    assert accounts.caller_of_session(entry.secret) is None


def test_a_one_time_token_is_for_one_login(accounts: Accounts, clock: Clock) -> None:
    secret, late = accounts.add_token("first", "admin", is_once=True), accounts.add_token("late", "read", is_once=True)
    assert accounts.caller_of_token(secret) is None
    entry = accounts.login_by_token(secret, address=HERE)
    assert entry is not None
    assert entry.caller.role == "admin"
    assert accounts.login_by_token(secret, address=HERE) is None
    with pytest.raises(UsageError, match="a token already"):
        accounts.add_token("first", "read")  # its session lives
    clock.now_s += ONCE_S
    assert accounts.login_by_token(late, address=HERE) is None
    for name in ("first", "late"):  # names are free again
        accounts.add_token(name, "read", is_once=True)


def test_a_one_time_token_is_for_one_of_many_at_once(accounts: Accounts, tmp_path: Path, clock: Clock) -> None:
    secret = accounts.add_token("first", "admin", is_once=True)
    entries = []

    def enter(number: int) -> None:
        with Accounts(tmp_path / "access.sqlite", clock=clock) as own:
            entries.append(own.login_by_token(secret, address=f"192.0.2.{number}"))

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(entry is not None for entry in entries) == [False, False, False, True]


def test_five_tries_a_minute_of_an_account(accounts: Accounts, tmp_path: Path, clock: Clock) -> None:
    accounts.add_user("anna", "read", PASSWORD)
    for number in range(MOST):
        clock.now_s += 1
        assert accounts.login("anna", OTHER, address=f"192.0.2.{number}") is None
    with Accounts(tmp_path / "access.sqlite", clock=clock) as restarted, pytest.raises(TooManyTriesError) as refused:
        restarted.login("ANNA", PASSWORD, address="192.0.2.99")
    assert refused.value.wait_s == WINDOW_S - MOST + 1
    clock.now_s += refused.value.wait_s
    assert accounts.login("anna", PASSWORD, address="192.0.2.99") is not None


@pytest.mark.parametrize("addresses", [[HERE] * 5, [f"2001:db8::{number:x}" for number in range(5)]])
def test_five_tries_a_minute_from_an_address(accounts: Accounts, addresses: list[str]) -> None:
    accounts.add_user("anna", "read", PASSWORD)
    token = accounts.add_token("pacs", "read")
    for number, address in enumerate(addresses[:3]):
        assert accounts.login(f"somebody-{number}", OTHER, address=address) is None
    for address in addresses[3:]:
        assert accounts.login_by_token("rsna_no", address=address) is None
    with pytest.raises(TooManyTriesError):
        accounts.login("anna", PASSWORD, address=addresses[0])
    with pytest.raises(TooManyTriesError):
        accounts.login_by_token(token, address=addresses[0])
    assert accounts.login("anna", PASSWORD, address="198.51.100.1") is not None


def test_right_tries_do_not_count_and_clocks_may_be_set_back(accounts: Accounts, clock: Clock) -> None:
    accounts.add_user("anna", "read", PASSWORD)
    for _ in range(2 * MOST):
        logged_in(accounts)
    for _ in range(MOST):
        accounts.login("anna", OTHER, address=HERE)
    clock.now_s -= 3600
    assert accounts.login("anna", PASSWORD, address=HERE) is not None


def test_tries_at_the_same_time_count(accounts: Accounts) -> None:
    accounts.add_user("anna", "read", PASSWORD)
    outcomes = []

    def enter(number: int) -> None:
        try:
            outcomes.append(accounts.login("anna", OTHER, address=f"192.0.2.{number}") is None)
        except TooManyTriesError:
            outcomes.append(False)

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(outcomes) == MOST


@pytest.mark.usefixtures("full_rounds")
def test_nobodys_name_takes_as_long_as_somebodys(accounts: Accounts, clock: Clock) -> None:
    """Of interleaved tries, so that both meet the same load; without the work for nobody the ratio is below 0.1."""
    accounts.add_user("anna", "read", PASSWORD)
    accounts.add_user("bob", "read", None)
    times_s: dict[str, list[float]] = {"anna": [], "bob": [], "nobody": []}
    for _ in range(5):
        clock.now_s += WINDOW_S
        for name, of_name in times_s.items():
            began_s = time.thread_time()
            assert accounts.login(name, OTHER, address="") is None
            of_name.append(time.thread_time() - began_s)
    known, *others = map(statistics.median, times_s.values())
    assert known > 0.02
    for other in others:
        assert 0.7 < other / known < 1.4


def test_a_database_in_use_is_waited_for_no_longer_than_told(
    accounts: Accounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = accounts.add_token("pacs", "read")
    other = sqlite3.connect(tmp_path / "access.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr("rsna_e2e.service.accounts.BUSY_MS", 50)
    with Accounts(tmp_path / "access.sqlite") as waiting:
        assert waiting.caller_of_token(secret) is not None  # its last use is not noted
        assert [token.used for token in waiting.tokens()] == [None]
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            waiting.add_token("other", "read")
    other.close()


def test_addresses() -> None:
    assert [plain(text) for text in ("127.0.0.1", "::ffff:192.0.2.1", "2001:DB8:0::1", "fe80::1%eth0", "name", "")] == [
        "127.0.0.1",
        "192.0.2.1",
        "2001:db8::1",
        "fe80::1",
        "",
        "",
    ]
    assert counted_as("2001:db8::1") == counted_as("2001:db8::ffff:0:0:2") == "2001:db8::/64"
    assert counted_as("2001:db8:0:1::1") != counted_as("2001:db8::1")
    networks = Networks(["127.0.0.1", "10.2.0.0/16", "2001:db8::/32"])
    inside = ["127.0.0.1", "::ffff:127.0.0.1", "10.2.3.4", "2001:db8::5"]
    assert [text in networks for text in (*inside, "127.0.0.2", "10.3.0.0", "", "x")] == [True] * 4 + [False] * 4
    with pytest.raises(UsageError, match=r"such as 10\.2.0.7"):
        Networks(["proxy.example.org"])
