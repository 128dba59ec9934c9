from __future__ import annotations

import pytest
import torch

from fastgan.data import DataError, Source
from fastgan.data.text import (
    UNKNOWN,
    alphabet,
    decode,
    encode,
    one_hot,
    read_text,
    split_text,
    text_windows,
    unseen,
)


def test_what_is_encoded_is_decoded():
    text = "to be,\nor not: ü"
    characters = alphabet(text)
    assert characters[0] == UNKNOWN
    items = one_hot(encode(text, characters)[None], len(characters))
    assert items.shape == (1, len(characters), len(text))
    assert decode(items, characters) == [text]
    assert decode(one_hot(encode("xtx", characters)[None], len(characters)), characters) == [
        f"{UNKNOWN}t{UNKNOWN}"
    ]
    assert unseen("to be", characters) == ""
    assert unseen("xtxz", characters) == "3 of 4 characters are not of the alphabet ('x' 2, 'z' 1)"


def test_of_many_characters_the_commonest_are_kept():
    text = "".join(map(chr, range(300, 600))) + "aab"
    assert len(alphabet(text)) == 256
    assert "a" in alphabet(text)
    assert (encode(text, alphabet(text)) == 0).sum() == 300 + 2 - 255


def test_windows_are_every_part_of_the_text_and_batches_repeat():
    windows = text_windows("abcdefgh", 3, "letters")
    assert isinstance(windows, Source)
    assert windows.shape == (6, 9, 3)
    seen = [windows.batches(2, 0, "cpu").batch(step)[0] for step in range(3)]
    assert torch.equal(seen[1], windows.batches(2, 0, "cpu").batch(1)[0])
    found = decode(torch.cat(seen), windows.arguments["characters"])
    assert sorted(found) == ["abc", "bcd", "cde", "def", "efg", "fgh"]
    assert torch.equal(windows.some(2)[1], windows.some(6)[3])
    with pytest.raises(ValueError, match="flip mirrors images left-right, but items of letters"):
        windows.batches(2, 0, "cpu", flip=True)


def test_another_text_alphabet_or_length_is_other_data():
    prints = {
        text_windows(*arguments, "t", characters).fingerprint()
        for *arguments, characters in (
            ("abcd", 2, None), ("abdc", 2, None), ("abcd", 3, None), ("abcd", 2, "abcde"),
        )
    }  # fmt: skip
    assert len(prints) == 4
    assert text_windows("abcd", 2, "other name").fingerprint() in prints


def test_a_given_alphabet_states_what_it_lacks():
    (note,) = text_windows("abca", 2, "t", "ab").notes
    assert note.startswith("t: 1 of 4 characters are not of the alphabet ('c' 1): each stands as")
    assert text_windows("abca", 2, "t").notes == ()


def test_files_and_folders(tmp_path):
    (tmp_path / "b.txt").write_bytes(b"two\r\nlines")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\n")
    (tmp_path / "c.md").write_text("no text")
    assert read_text(tmp_path) == "one\ntwo\nlines"
    assert read_text(tmp_path / "c.md") == "no text"
    assert split_text("0123456789", 0.2) == ("01234567", "89")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" \n\n", "an empty text"),
        (b"caf\xe9", "not UTF-8: byte 3 is 0xe9; convert it, such as by iconv"),
    ],
)
def test_files_that_are_no_text(tmp_path, content, message):
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_text(tmp_path / "t.txt")


def test_what_cannot_be_cut_is_told(tmp_path):
    with pytest.raises(DataError, match=r"a folder without \.txt files"):
        read_text(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "none.txt")
    with pytest.raises(DataError, match="t: 3 characters, fewer than a window's 4"):
        text_windows("abc", 4, "t")
    with pytest.raises(ValueError, match=r"held_out must lie in \[0, 1\), got 1"):
        split_text("abc", 1)
