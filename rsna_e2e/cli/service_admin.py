"""The verb that says who may use a service: serve-admin user, token and audit. It works while the service runs."""

import argparse
import getpass
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rsna_e2e.cli.arguments import n_days, n_rows
from rsna_e2e.cli.verbs import Verbs, add_verb, tell
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.service.callers import ROLES

if TYPE_CHECKING:
    from rsna_e2e.service.accounts import Accounts
    from rsna_e2e.service.audit import Audit

_DAY_S = 24 * 3600.0
_CALL = "rsna-e2e serve-admin --data DATA"


def add_serve_admin(verbs: Verbs) -> None:
    """Add `rsna-e2e serve-admin`."""
    description = "Say who may use a service, people and programs, and check its audit, while the service runs or not."
    verb = verbs.add_parser(
        "serve-admin",
        help=description,
        description=description,
        epilog=f"examples:\n  {_CALL} user add anna --role read\n  {_CALL} token add pacs --role upload\n"
        f"  {_CALL} audit verify",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("--data", type=Path, required=True, metavar="DATA", help="the folder that the service keeps")
    groups: Verbs = verb.add_subparsers(metavar="GROUP", required=True)
    _add_user(_group(groups, "user", "People, who log in with name and password or through a proxy."))
    _add_token(_group(groups, "token", "Programs, which send a token with each request, and links for one login."))
    _add_audit(_group(groups, "audit", "Who did what, and whether the record of it is whole."))


def _group(groups: Verbs, name: str, description: str) -> Verbs:
    group = groups.add_parser(name, help=description, description=description)
    return group.add_subparsers(metavar="VERB", required=True)


def _add_user(own: Verbs) -> None:
    verb = _named(own, "user add", _add_a_user, "Add somebody. The password is asked for, or the first line of stdin.")
    _add_role(verb)
    verb.add_argument("--no-password", action="store_true", help="only the proxy that is trusted lets this user in")
    _named(own, "user remove", _remove_user, "Remove somebody, and end the sessions.")
    _named(own, "user password", _set_password, "Give somebody another password, and end the sessions.")
    _unnamed(own, "user list", _list_users, "List all users and their roles.")


def _add_token(own: Verbs) -> None:
    verb = _named(own, "token add", _add_a_token, "Make a token and show it, once: nothing can show it again.")
    _add_role(verb)
    verb.add_argument("--days", type=n_days, metavar="N", help="for so many days (default: until it is revoked)")
    verb.add_argument("--once", action="store_true", help="for one login within an hour, in place of a password")
    _named(own, "token revoke", _revoke_token, "Remove a token, and end the sessions that began with it.")
    _unnamed(own, "token list", _list_tokens, "List all tokens, without their secrets.")


def _add_audit(own: Verbs) -> None:
    verb = _unnamed(own, "audit show", _show_audit, "Show the last rows, oldest first.")
    verb.add_argument("--last", type=n_rows, default=50, metavar="N", help="so many rows (default 50)")
    verb = _unnamed(
        own, "audit verify", _verify_audit, "Check that no row was changed or removed; the exit code is 3 if one was."
    )
    verb.add_argument(
        "--known",
        metavar="NUMBER:HASH",
        help="what an earlier check gave, kept elsewhere: finds too that all rows were written anew since",
    )


def _unnamed(
    own: Verbs, words: str, run: Callable[[argparse.Namespace], None], description: str
) -> argparse.ArgumentParser:
    return add_verb(own, words.split()[1], run, description, f"{_CALL} {words}")


def _named(
    own: Verbs, words: str, run: Callable[[argparse.Namespace], None], description: str
) -> argparse.ArgumentParser:
    role = " --role read" if words.endswith("add") else ""
    verb = add_verb(own, words.split()[1], run, description, f"{_CALL} {words} anna{role}")
    verb.add_argument("name", metavar="NAME", help="small letters, digits, '.', '_', '@' and '-', 64 at most")
    return verb


def _add_role(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--role", choices=ROLES, required=True, help="each may do what those before it may: read, upload, admin"
    )


@dataclass(frozen=True, slots=True)
class _Kept:
    accounts: "Accounts"
    audit: "Audit"

    def note(self, outcome: str) -> None:
        from rsna_e2e.service.audit import MACHINE

        self.audit.append(actor=MACHINE, action="admin", outcome=outcome)


@contextmanager
def _kept(options: argparse.Namespace, *, is_new: bool = False) -> Iterator[_Kept]:
    """Open the accounts and the audit in DATA. is_new: they may have to be made."""
    from rsna_e2e.service.accounts import ACCESS_FILE, Accounts
    from rsna_e2e.service.audit import Audit

    path = options.data / ACCESS_FILE
    if not path.exists():
        if not is_new:
            raise BadInputError(f"{options.data}: nobody may use a service here yet. Add a user or a token first")
        options.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with Accounts(path) as accounts, Audit(path) as audit:
            yield _Kept(accounts, audit)
    except sqlite3.Error as error:
        raise BadInputError(f"{path}: {error}. If the service is busy, try again") from None


def _password() -> str:
    """Asked for twice on a terminal; else a line of stdin. Never an argument, which other users of a machine see."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("password: ")
    if getpass.getpass("once more: ") != password:
        raise UsageError("the two passwords differ. Nothing is changed")
    return password


def _add_a_user(options: argparse.Namespace) -> None:
    password = None if options.no_password else _password()
    with _kept(options, is_new=True) as kept:
        kept.accounts.add_user(options.name, options.role, password)
        kept.note(f"user added: {options.name} {options.role}")
    tell(f"{options.name}: added, role {options.role}")


def _remove_user(options: argparse.Namespace) -> None:
    with _kept(options) as kept:
        kept.accounts.remove_user(options.name)
        kept.note(f"user removed: {options.name}")
    tell(f"{options.name}: removed, sessions ended")


def _set_password(options: argparse.Namespace) -> None:
    password = _password()
    with _kept(options) as kept:
        kept.accounts.set_password(options.name, password)
        kept.note(f"password changed: {options.name}")
    tell(f"{options.name}: password changed, sessions ended")


def _list_users(options: argparse.Namespace) -> None:
    from rsna_e2e.core.console import table

    with _kept(options) as kept:
        users = kept.accounts.users()
    rows = [(user.name, user.role, "password" if user.has_password else "proxy") for user in users]
    tell(*table(("user", "role", "logs in by"), rows).splitlines())


def _add_a_token(options: argparse.Namespace) -> None:
    expires_s = None if options.days is None else options.days * _DAY_S
    with _kept(options, is_new=True) as kept:
        secret = kept.accounts.add_token(options.name, options.role, expires_s=expires_s, is_once=options.once)
        kept.note(f"token added: {options.name} {options.role}{' once' if options.once else ''}")
    tell(secret)
    how = "for one login, in place of name and password" if options.once else "sent as Authorization: Bearer TOKEN"
    tell(f"{options.name}: role {options.role}, {how}. Nothing can show it again", to=sys.stderr)


def _revoke_token(options: argparse.Namespace) -> None:
    with _kept(options) as kept:
        kept.accounts.revoke_token(options.name)
        kept.note(f"token revoked: {options.name}")
    tell(f"{options.name}: revoked, sessions ended")


def _list_tokens(options: argparse.Namespace) -> None:
    from rsna_e2e.core.console import table

    with _kept(options) as kept:
        tokens = kept.accounts.tokens()
    rows = [
        (token.name, token.role, "one login" if token.is_once else "requests", _day(token.expires), _day(token.used))
        for token in tokens
    ]
    tell(*table(("token", "role", "for", "expires", "last used"), rows).splitlines())


def _day(time_s: float | None) -> str:
    return "never" if time_s is None else datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _show_audit(options: argparse.Namespace) -> None:
    from rsna_e2e.core.console import table

    with _kept(options) as kept:
        rows = kept.audit.last(options.last)
    names = ("number", "time", "actor", "action", "study", "outcome", "address")
    tell(*table(names, [[row[name] for name in names] for row in rows]).splitlines())


def _verify_audit(options: argparse.Namespace) -> None:
    with _kept(options) as kept:
        found = kept.audit.verify(options.known)
    if found.broken is not None:
        raise BadInputError(
            f"{options.data}: row {found.broken} of the audit: {found.why}. Those before it are as they were written"
        )
    tell(f"{found.n_rows} rows, all as they were written", f"known  {found.known}")
