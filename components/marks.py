"""Pages whose numbers are made and whose words are written: marks keep the two apart."""

from __future__ import annotations

from pathlib import Path

from perscen.errors import ArtifactError
from perscen.staging import write_whole


def put_between_marks(path: Path, text: str, *, made_by: str) -> None:
    """Replace what stands between the marks on a page; the words around it stay.

    A page that is not there yet is made, with nothing but the marks and the text.

    Raises:
        ArtifactError: The page has no such marks, or has them more than once.
        StorageFull: There is no room; the page is as it was.
    """
    before, after = around_marks(path, made_by=made_by)
    write_whole(path, f"{before}\n{text}{after}")


def around_marks(path: Path, *, made_by: str) -> tuple[str, str]:
    """Return a page up to its first mark and from its second on, both with the mark.

    Raises:
        ArtifactError: The page has no such marks, or has them more than once.
    """
    begin, end = f"<!-- made by {made_by} -->", f"<!-- end of {made_by} -->"
    page = path.read_text(encoding="utf-8") if path.exists() else f"{begin}\n{end}\n"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(end) < page.index(begin):
        raise ArtifactError(
            f"{path} has no place for the text: it needs one line {begin!r} and below it {end!r}",
            hint="add the two lines where the text belongs, or name another page",
        )
    return page[: page.index(begin) + len(begin)], page[page.index(end) :]
