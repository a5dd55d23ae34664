"""What the service is told: where its data lie, which models it asks, and its limits."""

import ssl
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from rsna_e2e.config import Frozen
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.files import read_json, write_json
from rsna_e2e.core.plain_yaml import read_yaml

LOOPBACK = ("127.0.0.1", "::1", "localhost")
SETTINGS = "settings.json"
_GIB = 1 << 30


class Limits(Frozen):
    """How much is taken in. Sizes are in bytes."""

    file_bytes: PositiveInt = 512 << 20
    study_bytes: PositiveInt = 4 * _GIB  # of one request, and of what its archives inflate to
    study_files: PositiveInt = 8192  # of one request
    undone_studies: PositiveInt = 1000
    open_uploads: PositiveInt = 4  # of one user or token
    inbox_bytes: PositiveInt = 200 * _GIB
    free_bytes: NonNegativeInt = 5 * _GIB  # of the disk, that stay free


class Retention(Frozen):
    """How long is kept what is done, in days."""

    raw_days: PositiveFloat = 1.0  # files as they came, after the result
    result_days: PositiveFloat = 30.0
    audit_days: PositiveFloat = 365.0


class Settings(Frozen):
    """Settings of a service.

    data: its folder. models: bundles, or folders of runs. identities: of these bundles as the service began, empty for
    a folder: a file that was exchanged since is refused. n_workers: processes that predict, each with all models.
    quiet_s: a study is whole when no file of it came for so long; max_wait_s: or when it came so long ago.
    lease_s: so long a worker may be silent before its study is another's. attempts: of a study, before it is left
    alone. jobs_of_worker: after so many a worker makes room for a fresh one. prepare_jobs: processes that decode files,
    by default one for each core. has_identities: whether patient id, accession number and study date are kept, to be
    shown to users.
    proxies: addresses whose word about who is asking is taken. hosts: names under which the service is called, beside
    those of loopback.
    """

    data: Path
    models: tuple[Path, ...] = Field(min_length=1)
    identities: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = Field(8600, ge=0, le=65535)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    n_workers: PositiveInt = 1
    prepare_jobs: PositiveInt | None = None
    quiet_s: PositiveFloat = 10.0
    max_wait_s: PositiveFloat = 600.0
    lease_s: PositiveFloat = 60.0
    attempts: PositiveInt = 3
    retry_s: tuple[PositiveFloat, ...] = (5.0, 30.0, 300.0)  # before each further attempt
    jobs_of_worker: PositiveInt = 500
    restart_s: tuple[PositiveFloat, ...] = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
    has_identities: bool = True
    tls_cert: Path | None = None
    tls_key: Path | None = None
    proxies: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    limits: Limits = Limits()
    retention: Retention = Retention()

    @property
    def is_open(self) -> bool:
        """Whether others than this machine may reach it."""
        return self.host not in LOOPBACK

    @property
    def database(self) -> Path:
        """Of studies and their results."""
        return self.data / "queue.sqlite"

    @property
    def key(self) -> Path:
        """By which names are hashed."""
        return self.data / "key"

    @property
    def incoming(self) -> Path:
        """Folder of what is being received; emptied at start."""
        return self.data / "tmp"

    @property
    def inbox(self) -> Path:
        """Folder of a folder for each study, of its files as they came."""
        return self.data / "inbox"

    @property
    def studies(self) -> Path:
        """Folder of a folder for each study, of its results."""
        return self.data / "studies"


def load_settings(path: Path | None, **given: object) -> Settings:
    """Return the settings of a YAML file with those given in place of the file's. Raises BadInputError, UsageError."""
    content: object = {}
    if path is not None:
        try:
            content = read_yaml(path)
        except (OSError, ValueError) as error:
            raise BadInputError(f"{path}: cannot be read: {error}. See docs/serving.md") from None
    if not isinstance(content, dict):
        raise BadInputError(f"{path}: expected settings with their values, such as port: 8600")
    try:
        settings = Settings.model_validate({**content, **given})
    except ValidationError as error:
        raise UsageError(_what_is_wrong(error, path)) from None
    _check_encryption(settings)
    return settings


def _what_is_wrong(error: ValidationError, path: Path | None) -> str:
    """Return the first thing that is wrong with settings, in words."""
    first = error.errors()[0]
    *sections, name = map(str, first["loc"])
    where = "" if path is None else f"{path}: "
    if first["type"] != "extra_forbidden":
        return f"{where}{'.'.join((*sections, name))}: {first['msg']}. See docs/serving.md"
    of_section: dict[str, type[Frozen]] = {"limits": Limits, "retention": Retention}
    near = get_close_matches(name, of_section.get("".join(sections), Settings).model_fields, n=1)
    meant = f"; did you mean {near[0]}?" if near else "."
    return f"{where}{'.'.join((*sections, name))}: no such setting{meant} docs/serving.md lists all"


def _check_encryption(settings: Settings) -> None:
    """Raise UsageError where passwords would go unencrypted, BadInputError for certificates that cannot be used."""
    has_tls = settings.tls_cert is not None and settings.tls_key is not None
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise UsageError("--tls-cert and --tls-key: a certificate needs its key, and a key its certificate. Give both")
    if settings.is_open and not settings.proxies and not has_tls:
        raise UsageError(
            f"{settings.host} can be reached from other machines, to which passwords and images would go unencrypted. "
            "Give --tls-cert and --tls-key, or --behind-proxy with the address of a proxy that encrypts"
        )
    if has_tls:
        assert settings.tls_cert is not None
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key)
        except (OSError, ssl.SSLError) as error:  # of a missing file, and of one that is none or does not fit
            raise BadInputError(
                f"{settings.tls_cert}, {settings.tls_key}: no certificate with its key: {error.strerror or error}. "
                "Give PEM files that belong together"
            ) from None


def save_settings(settings: Settings) -> None:
    """Write the settings where the processes of the service read them."""
    write_json(settings.data / SETTINGS, settings.model_dump(mode="json"))


def read_settings(data: Path) -> Settings:
    """Read the settings of a service. Raises BadInputError."""
    try:
        return Settings.model_validate(read_json(data / SETTINGS))
    except (OSError, ValueError):
        raise BadInputError(f"{data}: holds no data of a service. rsna-e2e serve makes them") from None
