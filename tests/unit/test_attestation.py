"""Signatures: what a trusted key signed is read, whatever else is refused with a sentence."""

import base64
import concurrent.futures
import json
import pathlib
import stat

import hypothesis
import hypothesis.strategies as st
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from raymlops import attestation
from raymlops.errors import UntrustedError, UserError
from raymlops.settings import Settings
from tests.conftest import settings_in

KIND = "application/vnd.example+json"


@pytest.fixture
def own(tmp_path: pathlib.Path) -> Settings:
    return settings_in(tmp_path / "home")


@pytest.fixture(scope="module")
def keys() -> list[attestation.SigningKey]:
    return [attestation.SigningKey(ed25519.Ed25519PrivateKey.generate()) for _ in range(2)]


def trusting(*keys: attestation.SigningKey) -> attestation.TrustedKeys:
    return {key.public.keyid: key.public for key in keys}


def test_a_key_is_made_on_first_use_for_its_owner_alone_and_is_trusted(own: Settings) -> None:
    assert attestation.load_trusted_keys(own) == {}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: attestation.load_signing_key(own).line, range(16)))
    assert len(set(made)) == 1
    (path,) = (own.home / "keys").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    envelope = attestation.load_signing_key(own).sign(b"payload", KIND)
    verified = attestation.verify(envelope, KIND, attestation.load_trusted_keys(own))
    assert (verified.payload, verified.key) == (b"payload", made[0])


def test_a_key_that_others_may_read_is_refused(own: Settings) -> None:
    attestation.load_signing_key(own)
    (own.home / "keys" / attestation.KEY_FILE).chmod(0o640)
    with pytest.raises(UserError, match=r"others may read it; run: chmod 600"):
        attestation.load_signing_key(own)


def test_a_signature_of_another_key_counts_as_none(keys: list[attestation.SigningKey]) -> None:
    mine, other = keys
    envelope = json.loads(other.sign(b"x", KIND))
    for keyid in (other.public.keyid, mine.public.keyid):  # also under a trusted key's name
        envelope["signatures"][0]["keyid"] = keyid
        with pytest.raises(UntrustedError, match="no trusted key"):
            attestation.verify(json.dumps(envelope), KIND, trusting(mine))
    both = json.loads(other.sign(b"x", KIND))
    both["signatures"] += json.loads(mine.sign(b"x", KIND))["signatures"]
    assert attestation.verify(json.dumps(both), KIND, trusting(mine)).key == mine.line


def test_an_envelope_does_not_stand_for_one_of_another_payload_type(
    keys: list[attestation.SigningKey],
) -> None:
    envelope = json.loads(keys[0].sign(b"x", "application/other"))
    with pytest.raises(UntrustedError, match=r"expected a 'application/vnd\.example"):
        attestation.verify(json.dumps(envelope), KIND, trusting(keys[0]))
    envelope["payloadType"] = KIND
    with pytest.raises(UntrustedError, match="no trusted key, or changed"):
        attestation.verify(json.dumps(envelope), KIND, trusting(keys[0]))


@hypothesis.given(place=st.integers(0, 10_000), change=st.integers(1, 255))
def test_no_changed_byte_passes(keys: list[attestation.SigningKey], place: int, change: int) -> None:
    payload = b'{"model":"flights","passed":false}'
    text = bytearray(keys[0].sign(payload, KIND).encode())
    text[place % len(text)] ^= change
    try:
        found = attestation.verify(bytes(text), KIND, trusting(keys[0]))
    except UntrustedError:
        return
    assert found.payload == payload  # base64 has bits that say nothing


@hypothesis.given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["payload", "payloadType", "signatures", "sig", "keyid"]), inner
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_stands_in_an_envelopes_place_is_refused_with_a_sentence(
    keys: list[attestation.SigningKey], value: object
) -> None:
    with pytest.raises(UntrustedError):
        attestation.verify(json.dumps(value), KIND, trusting(keys[0]))
    with pytest.raises(UntrustedError):
        attestation.verify_apart(b"x", KIND, value if isinstance(value, dict) else {}, trusting(keys[0]))


def test_trusted_keys_are_lines_files_and_folders(
    tmp_path: pathlib.Path, keys: list[attestation.SigningKey]
) -> None:
    first, second = keys
    third = ed25519.Ed25519PrivateKey.generate()
    pem = third.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "team").mkdir()
    (tmp_path / "team" / "ci.pem").write_bytes(pem)
    (tmp_path / "team" / "notes.txt").write_text("not a key")
    (tmp_path / "ann.pub").write_text(f"# the release team\n\n{second.line}  ann\n")
    entries = f"{first.line}, {tmp_path}/ann.pub\n{tmp_path}/team"
    found = attestation.load_trusted_keys(settings_in(tmp_path / "home", RAYMLOPS_TRUSTED_KEYS=entries))
    assert set(found) == {first.public.keyid, second.public.keyid, attestation.SigningKey(third).public.keyid}
    lines = settings_in(tmp_path / "other", RAYMLOPS_TRUSTED_KEYS=attestation.to_lines(found))
    assert set(attestation.load_trusted_keys(lines)) == set(found)


def test_what_is_no_key_is_refused(tmp_path: pathlib.Path) -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    private = curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "private.pem").write_bytes(private)
    (tmp_path / "curve.pem").write_bytes(
        curve.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    (tmp_path / "broken.pem").write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    (tmp_path / "text.pub").write_text("hello\n")
    for entry, words in {
        "absent": "neither a file or folder",
        "ed25519:AAAA": "is not a key",
        f"{tmp_path}/private.pem": "holds a private key",
        f"{tmp_path}/curve.pem": "expected an ed25519 key",
        f"{tmp_path}/broken.pem": "not a PEM file",
        f"{tmp_path}/text.pub": "is not a key",
    }.items():
        with pytest.raises(UserError, match=words):
            attestation.load_trusted_keys(settings_in(tmp_path / "home", RAYMLOPS_TRUSTED_KEYS=entry))
    (tmp_path / "private.pem").chmod(0o600)
    other = settings_in(tmp_path, RAYMLOPS_SIGNING_KEY=str(tmp_path / "private.pem"))
    with pytest.raises(UserError, match="expected an ed25519 key"):
        attestation.load_signing_key(other)
    with pytest.raises(UserError, match="does not exist"):
        attestation.load_signing_key(settings_in(tmp_path, RAYMLOPS_SIGNING_KEY="/absent.pem"))


def test_a_statement_is_read_as_its_kind_and_as_no_other() -> None:
    subjects = {"model.onnx": "ab" * 32, "weights.bin": "cd" * 32}
    payload = attestation.make_statement(subjects, "https://example/manifest", {"why": "x"})
    assert attestation.read_statement(payload, "https://example/manifest") == (subjects, {"why": "x"})
    with pytest.raises(UntrustedError, match="expected a 'https://example/head'"):
        attestation.read_statement(payload, "https://example/head")
    twice = json.loads(payload)
    twice["subject"].append({"name": "model.onnx", "digest": {"sha256": "ef" * 32}})
    with pytest.raises(UntrustedError, match="names a file twice"):
        attestation.read_statement(attestation.canonical(twice), "https://example/manifest")
    for broken in (b"", b"[]", b"{}", base64.b64encode(payload), b"\xff"):
        with pytest.raises(UntrustedError):
            attestation.read_statement(broken, "https://example/manifest")
