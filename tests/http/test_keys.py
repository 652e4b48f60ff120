"""The key file: its format, invalid content, edits, and reloading."""

import logging
import os
import string
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermnote_http.keys import (
    MAX_PER_MINUTE,
    Key,
    KeyFile,
    KeysInvalid,
    add_key,
    hashed,
    main,
    new_key,
    parse_keys,
    read_keys,
    remove_key,
)

DIGEST = hashed(b"a key")
NAMES = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=64)
KEYS = st.builds(
    Key,
    name=NAMES,
    sha256=st.binary(max_size=40).map(hashed),
    per_minute=st.none() | st.integers(1, MAX_PER_MINUTE),
)
KEY_LISTS = st.lists(KEYS, unique_by=(lambda key: key.name, lambda key: key.sha256), max_size=8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@given(KEY_LISTS, st.sampled_from(["", "# not a key\n", "\n \t\n", "  # indented\n"]), st.sampled_from(["\n", "\r\n"]))
def test_written_keys_are_read_with_any_comments_between_them(keys: list[Key], between: str, end: str) -> None:
    text = between + "".join(key.line() + end + between for key in keys)

    assert parse_keys(text, source="keys") == tuple(keys)


@given(st.text())
def test_any_text_gives_keys_or_an_error_that_does_not_repeat_it(text: str) -> None:
    try:
        message, keys = "", parse_keys(text, source="keys")
    except KeysInvalid as invalid:
        message, keys = str(invalid), ()

    assert not message or message.startswith("keys, line ")
    assert all(key.line().split() in [line.split() for line in text.split("\n")] for key in keys)


@pytest.mark.parametrize(
    "line",
    [
        "Smith",
        f"Smith {DIGEST[:-1]}",
        f"Smith {DIGEST.upper()}",
        f"Smith {DIGEST} 0",
        f"Smith {DIGEST} -5",
        f"Smith {DIGEST} 1e3",
        f"Smith {DIGEST} 100001",
        f"Smith {DIGEST} 99999999999999999999999999",
        f"Smith {DIGEST} 5 # mine",
        f"{'Smith' * 20} {DIGEST}",
        f"Smíth {DIGEST}",
        f"{DIGEST} Smith",
        f"other {DIGEST}",
        f"first {hashed(b'another key')}",
    ],
)
def test_an_invalid_line_is_named_by_its_number_and_not_repeated(line: str) -> None:
    with pytest.raises(KeysInvalid, match=r"^/etc/keys, line 3: ") as raised:
        parse_keys(f"# ours\nfirst {DIGEST}\n{line}\n", source="/etc/keys")

    for secret in ("Sm", DIGEST[:8]):
        assert secret not in str(raised.value)


def test_keys_are_long_and_random_with_a_common_prefix() -> None:
    keys = {new_key() for _ in range(100)}

    assert len(keys) == 100
    assert all(key.startswith("dn_") and len(key) == 3 + 43 for key in keys)


def test_a_key_is_shown_once_and_the_file_holds_only_its_hash(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["add", str(file), "clinic-a", "--per-minute", "600"])
    key = capsys.readouterr().out.strip()
    main(["add", str(file), "clinic-b"])

    assert file.stat().st_mode & 0o777 == 0o600
    assert key not in file.read_text()
    assert read_keys(file)[0] == Key("clinic-a", hashed(key.encode()), 600)
    assert KeyFile(file).find(key.encode()) == read_keys(file)[0]
    capsys.readouterr()
    main(["list", str(file)])
    assert capsys.readouterr().out == "clinic-a\t600 per minute\nclinic-b\tno limit\n"


@pytest.mark.parametrize("module", ["dermnote_http.keys", "dermnote_contracts.keys"])
def test_the_command_runs_under_its_new_and_its_former_name(file: Path, module: str) -> None:
    command = [sys.executable, "-m", module, "add", str(file), "clinic"]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    again = subprocess.run(command, capture_output=True, text=True, check=False)

    assert KeyFile(file).find(made.stdout.strip().encode()) is not None
    assert again.returncode == 1
    assert again.stdout == ""
    assert again.stderr.count("\n") == 1
    assert "line 2" in again.stderr


def test_an_edit_keeps_comments_other_keys_and_the_file_mode(file: Path) -> None:
    file.write_text(f"# ours\nfirst {DIGEST} 5\n\n# last")
    file.chmod(0o640)
    add_key(file, "second")
    add_key(file, "third")
    remove_key(file, "second")

    assert file.read_text().startswith(f"# ours\nfirst {DIGEST} 5\n\n# last\nthird ")
    assert file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in file.parent.iterdir()] == ["keys"]


def test_a_symbolic_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    add_key(tmp_path / "link", "clinic")

    assert (tmp_path / "link").is_symlink()
    assert [key.name for key in read_keys(tmp_path / "real")] == ["clinic"]


def test_concurrent_edits_lose_nothing(file: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: add_key(file, f"clinic-{number}"), range(24)))

    assert {key.name for key in read_keys(file)} == {f"clinic-{number}" for number in range(24)}


@pytest.mark.parametrize(
    "arguments",
    [["add", "clinic", "--per-minute", "0"], ["add", "no name"], ["add", "taken"], ["remove", "nobody"]],
    ids=" ".join,
)
def test_a_rejected_edit_changes_nothing_and_is_one_line(file: Path, arguments: list[str]) -> None:
    add_key(file, "taken")
    before = file.read_text()
    command, *rest = arguments
    with pytest.raises(SystemExit) as raised:
        main([command, str(file), *rest])

    assert "\n" not in str(raised.value.code)
    assert str(file) in str(raised.value.code)
    assert file.read_text() == before
    assert [path.name for path in file.parent.iterdir()] == ["keys"]


def test_an_invalid_file_is_not_edited(file: Path) -> None:
    file.write_text("what is this\n")
    for change in (lambda: add_key(file, "clinic"), lambda: remove_key(file, "what")):
        with pytest.raises(KeysInvalid, match="line 1"):
            change()

    assert file.read_text() == "what is this\n"


@pytest.mark.parametrize("content", [None, b"", b"# none yet\n", b"\xff\xfe", b"name"])
def test_a_file_without_a_key_is_rejected_at_the_start(file: Path, content: bytes | None) -> None:
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(KeysInvalid, match="^" + str(file)) as raised:
        KeyFile(file)

    assert "\n" not in str(raised.value)


def test_a_folder_is_not_a_key_file(tmp_path: Path) -> None:
    with pytest.raises(KeysInvalid, match="cannot be read"):
        KeyFile(tmp_path)


def test_added_and_revoked_keys_take_effect_at_once(file: Path) -> None:
    first = add_key(file, "first").encode()
    keys = KeyFile(file)
    second = add_key(file, "second").encode()
    assert keys.find(second) == read_keys(file)[1]

    remove_key(file, "first")
    assert keys.find(first) is None
    remove_key(file, "second")
    assert keys.find(second) is None


def test_a_change_that_keeps_size_and_time_is_noticed(file: Path) -> None:
    keep, go = new_key().encode(), new_key().encode()
    file.write_text(Key("one", hashed(go)).line() + "\n")
    keys = KeyFile(file)
    assert keys.find(go) is not None
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    (file.parent / "new").write_text(Key("one", hashed(keep)).line() + "\n")
    os.utime(file.parent / "new", ns=times)
    (file.parent / "new").replace(file)

    assert keys.find(go) is None
    assert keys.find(keep) is not None


@pytest.mark.parametrize("broken", ["what is this\n", None], ids=["invalid", "gone"])
def test_a_broken_file_keeps_the_last_keys_and_is_logged_once(
    file: Path, caplog: pytest.LogCaptureFixture, broken: str | None
) -> None:
    key = add_key(file, "clinic").encode()
    good, keys = file.read_text(), KeyFile(file)
    if broken is None:
        file.unlink()
    else:
        file.write_text(broken)

    with caplog.at_level(logging.ERROR):
        assert all(keys.find(key) for _ in range(5))
        assert keys.find(b"dn_other") is None
    assert len(caplog.records) == 1
    assert str(file) in caplog.text
    assert "what" not in caplog.text

    file.write_text(good.replace("clinic", "clinique"))
    found = keys.find(key)
    assert found is not None
    assert found.name == "clinique"


@pytest.mark.parametrize("name", ["#alice", "", "two words", "a" * 65, "line\nbreak"])
def test_a_name_that_the_file_cannot_hold_gets_no_key(file: Path, name: str) -> None:
    with pytest.raises(KeysInvalid, match="the name must have"):
        add_key(file, name)

    assert not file.exists()
