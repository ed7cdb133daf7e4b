"""The manual in docs/ is the one that the programming model writes."""

from pathlib import Path

from rtl.manual import manual


def test_manual_is_current():
    written = Path(__file__).parent.parent / "docs" / "programming-model.md"
    assert written.read_text() == manual(), "run `python -m rtl.manual > docs/programming-model.md`"
