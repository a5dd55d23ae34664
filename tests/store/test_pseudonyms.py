"""Identifiers under keyed hashes: the same for who has the key, nothing for anybody else."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import UID

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Refusal
from rsna_e2e.store.layout import INDEX_COLUMNS
from rsna_e2e.store.pseudonyms import IDENTIFIERS, Pseudonyms, is_open_to_others, load_key, load_or_make_key

KEY = b"0123456789abcdef0123456789abcdef"


def hmac_by_hand(key: bytes, text: bytes) -> bytes:
    """RFC 2104, section 2; the block of SHA-256 is 64 bytes."""
    padded = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in padded) + text).digest()
    return hashlib.sha256(bytes(b ^ 0x5C for b in padded) + inner).digest()


def test_a_pseudonym_is_the_hmac_of_kind_and_value() -> None:
    assert Pseudonyms(KEY).of("patient", "Müller") == hmac_by_hand(KEY, "patient\0Müller".encode())[:16].hex()


@pytest.mark.parametrize("kind", ["study", "series", "instance"])
def test_uids_stay_valid_ones(kind: str) -> None:
    for value in ("1.2.840.1", "ID_0a1b2c", ""):
        uid = Pseudonyms(KEY).of(kind, value)
        assert UID(uid).is_valid
        assert uid.startswith("2.25.")
        number = int(uid[5:])
        assert (number >> 76 & 0xF, number >> 62 & 0x3) == (8, 2)  # version and variant: RFC 9562 4.1 and 4.2
        by_hand = int.from_bytes(hmac_by_hand(KEY, f"{kind}\0{value}".encode())[:16], "big")
        assert (number ^ by_hand) & ~(0xF << 76 | 0x3 << 62) == 0  # every other bit is the hash's


def test_kinds_and_keys_are_kept_apart() -> None:
    names = {Pseudonyms(key).of(kind, "1.2") for key in (KEY, KEY[::-1]) for kind in ("study", "series", "patient")}
    assert len(names) == 6
    assert Pseudonyms(KEY).check != Pseudonyms(KEY[::-1]).check


def test_every_identifier_of_the_index_is_hashed_and_nothing_else() -> None:
    columns = {name: np.array(["1.2", "1.3", "1.2"], dtype=object) for name in INDEX_COLUMNS}
    hashed = Pseudonyms(KEY).of_columns(columns)
    changed = {name for name in INDEX_COLUMNS if (hashed[name] != columns[name]).any()}
    assert changed == {"patient_id", "study_uid", "series_uid", "sop_uid", "image_id"} == set(IDENTIFIERS)
    for name in changed:
        assert hashed[name][0] == hashed[name][2] != hashed[name][1]


def test_refusals_keep_reason_and_detail_and_lose_their_path() -> None:
    refusals = [Refusal("Doe^John/a.dcm", "not_ct", "Modality is not CT"), Refusal("b", "truncated", "cut")]
    hashed = Pseudonyms(KEY).of_refusals(refusals)
    assert {(r.reason, r.detail) for r in hashed} == {("not_ct", "Modality is not CT"), ("truncated", "cut")}
    assert all(re.fullmatch("[0-9a-f]{32}", refusal.path) for refusal in hashed)
    assert [r.path for r in hashed] == sorted(r.path for r in hashed)  # their order tells nothing of the paths'


def test_a_missing_key_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "study.key"
    made = load_or_make_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch("[0-9a-f]{64}\n", path.read_text())
    assert load_or_make_key(path) == load_key(path) == made
    assert load_or_make_key(tmp_path / "other.key") != made
    assert not is_open_to_others(path)
    path.chmod(0o640)
    assert is_open_to_others(path)


def test_a_key_is_not_printed() -> None:
    assert KEY.decode() not in repr(Pseudonyms(KEY))


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b" " + bytes(range(128, 158)) + b"\n", b" " + bytes(range(128, 158)) + b"\n"),  # bytes: white space is chance
        (b"\t" + KEY + b" \r\n", KEY),
        ("Schlüssel, den niemand errät: äöü".encode() + b"\n", "Schlüssel, den niemand errät: äöü".encode()),
    ],
)
def test_white_space_around_a_key_counts_unless_it_is_text(tmp_path: Path, content: bytes, key: bytes) -> None:
    (tmp_path / "k").write_bytes(content)
    assert load_key(tmp_path / "k").key == key


def test_what_is_no_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"none\.key: no such key file"):
        load_key(tmp_path / "none.key")
    (tmp_path / "short.key").write_text("secret\n")
    with pytest.raises(BadInputError, match=r"short\.key: a key of 6 bytes, which could be guessed; it takes 32"):
        load_or_make_key(tmp_path / "short.key")
    assert (tmp_path / "short.key").read_text() == "secret\n"
    with pytest.raises(BadInputError, match="cannot be read"):
        load_or_make_key(tmp_path)
