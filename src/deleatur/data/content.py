"""What a turn says where its content comes in parts, as in conversations with images."""

from __future__ import annotations

from collections.abc import Mapping

from deleatur.data.messages import refusal, show_all


def joined(place: str, content: object) -> object:
    """The text of a content in parts; any other content as it is. Raises DataError for parts that are no text."""
    if not isinstance(content, list | tuple) or not content:
        return content
    parts = [part for part in content if isinstance(part, Mapping) and "type" in part]
    if len(parts) < len(content):  # no such parts
        return content
    texts = [part.get("text") if part["type"] == "text" else None for part in parts]
    if any(not isinstance(text, str) for text in texts):
        kinds = show_all([part["type"] for part in parts])
        raise refusal(place, f"there are parts of the kinds {kinds}; only text is read, so take the others out")
    return "\n".join(map(str, texts))
