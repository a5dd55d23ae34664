"""The verb that runs the service: studies over HTTP, results in a browser."""

import argparse
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

from rsna_e2e.cli.verbs import Verbs, add_verb, need, tell

_LIBRARIES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
_FIRST = "first-login"  # name of the token for it
_ANY = ("0.0.0.0", "::")  # every address of the machine, and no name to call it by
_ONCE_S = 3600.0  # a link to log in is good for so long


def add_serve(verbs: Verbs) -> None:
    """Add `rsna-e2e serve`."""
    verb = add_verb(
        verbs,
        "serve",
        _serve,
        "Serve models over HTTP: takes studies, predicts them one after the other, and shows the results in a browser. "
        "Research use only.",
        "rsna-e2e serve model.rsna --data service",
        "rsna-e2e serve ich.rsna pe.rsna --data service --config serve.yaml --port 9000",
    )
    verb.add_argument("models", type=Path, nargs="+", metavar="FILE.rsna", help="bundles by export, or folders of runs")
    verb.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the service, made if missing")
    verb.add_argument("--host", help="address to listen at (default 127.0.0.1: this machine alone)")
    verb.add_argument("--port", type=int, help="port to listen at (default 8600)")
    verb.add_argument("--workers", type=int, dest="n_workers", metavar="N", help="processes that predict (default 1)")
    verb.add_argument("--device", choices=("auto", "cpu", "cuda"), help="default: a GPU if there is one")
    verb.add_argument("--config", type=Path, metavar="YAML", help="further settings, see docs/serving.md")
    verb.add_argument("--tls-cert", type=Path, metavar="PEM", help="certificate, to be reached from other machines")
    verb.add_argument("--tls-key", type=Path, metavar="PEM", help="its key")
    verb.add_argument(
        "--behind-proxy",
        action="append",
        dest="proxies",
        metavar="ADDRESS",
        help="address of a proxy that encrypts, and may say who is asking; may be repeated",
    )


def _serve(options: argparse.Namespace) -> None:
    need(_LIBRARIES, extra="serve")
    from rsna_e2e.service.logs import log_as_json
    from rsna_e2e.service.settings import load_settings
    from rsna_e2e.service.supervisor import Supervisor

    names = ("data", "models", "host", "port", "n_workers", "device", "tls_cert", "tls_key", "proxies")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    settings = load_settings(options.config, **given)
    is_stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: is_stopping.set())
    log_as_json("supervisor")
    with Supervisor(settings=settings) as supervisor:
        scheme = "http" if settings.tls_cert is None else "https"
        address = f"{scheme}://{_called(*supervisor.address, settings.hosts)}"
        _tell_how_to_log_in(settings.data, address)
        tell(f"{address}: serves, and loads its models; stop with Ctrl-C. Research use only, not for diagnosis.")
        supervisor.run(is_stopping, say=tell)
    tell("stopped")


def _called(host: str, port: int, names: Sequence[str]) -> str:
    """Return host and port as they stand in a link; for every address the first name that others use, or localhost."""
    if host in _ANY:
        host = next(iter(names), "localhost")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tell_how_to_log_in(data: Path, address: str) -> None:
    """Print a link to log in by, once, as long as there is no user."""
    from rsna_e2e.service.accounts import ACCESS_FILE, Accounts

    with Accounts(data / ACCESS_FILE) as accounts:
        if accounts.users():
            return
        if any(token.name == _FIRST for token in accounts.tokens()):
            accounts.revoke_token(_FIRST)
        once = accounts.add_token(_FIRST, "admin", expires_s=_ONCE_S, is_once=True)
    tell(
        f"log in once, within the hour, as administrator: {address}/login#token={once}",
        f"and add users: rsna-e2e serve-admin --data {data} user add NAME --role admin",
    )
