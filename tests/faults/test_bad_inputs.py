"""One corpus over all readers: bad input ends in a named error or is counted and listed; nothing else happens.

Each case damages a copy of something sound and says what is then expected: the words of the one error, or, for input
that is odd but legal, a function of the result. Whatever the case, nothing is executed and nothing outside the folder
that was named is opened.
"""

from __future__ import annotations

from pathlib import Path

import bad_models  # noqa: F401  (importing registers the cases)
import bad_pictures  # noqa: F401
import bad_scans  # noqa: F401
import pytest
from bad_cases import CASES, SECRET, WATCH, Place, case
from children import draw_plates
from hostile import png
from PIL import Image

from clarion.errors import ClarionError


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return draw_plates(tmp_path_factory.mktemp("sound") / "data", train=3, val=1, test=1)


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name, tmp_path, sound, monkeypatch, capfd):
    monkeypatch.setenv("CLARION_CACHE", str(tmp_path / "cache"))
    work, expected = CASES[name]
    place = Place(tmp_path, sound)
    WATCH.start(place.outside)
    try:
        if callable(expected):
            assert expected(work(place))
        else:
            with pytest.raises(ClarionError, match=expected) as raised:
                work(place)
            text = str(raised.value)
            assert "Traceback" not in text and len(text) < 3000 and text.strip()
            assert SECRET not in text and SECRET not in str(getattr(raised.value, "recorded", ""))
    finally:
        seen = WATCH.stop()
    assert seen == []
    assert not place.marker.exists()
    assert SECRET not in "".join(capfd.readouterr())


def test_the_corpus_is_as_large_as_it_claims():
    assert len(CASES) >= 40


@case(lambda picture: picture.size == (64, 64))
def sound_picture_beside_all_this(place):
    """The watch and the makers work: a sound PNG of the same maker is read."""
    path = place.folder() / "a.png"
    path.write_bytes(png(64, 64))
    return Image.open(path)
