"""The site as one file to take along: unpacked anywhere, it works from the disk, the playground included."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from rlhf_utils.book.build import STAMP, site_of
from rlhf_utils.book.citing import edition_date
from rlhf_utils.errors import UserError

FILE = Path("_build") / "book-site.zip"
FOLDER = "rlhf-book"


def write_zip(target: Path, files: Iterable[tuple[str, str | bytes]], date: datetime) -> None:
    """Pack files under one date and with the same rights everywhere, so that the same files give the same bytes.

    Args:
        target: the archive to write.
        files: their paths in it with what they hold; the first is stored as it is.
        date: their time of change.
    """
    with zipfile.ZipFile(target, "w") as archive:
        for number, (name, content) in enumerate(files):
            info = zipfile.ZipInfo(name, date.timetuple()[:6])
            info.external_attr = 0o644 << 16
            info.create_system = 3  # Unix on any system
            archive.writestr(info, content, zipfile.ZIP_DEFLATED if number else zipfile.ZIP_STORED)


def write(root: Path) -> Path:
    """Pack the built site into ``_build/book-site.zip``.

    Raises:
        UserError: there is no built site.
    """
    site, target = site_of(root), root / FILE
    if not (site / "index.html").exists():
        raise UserError("There is no built site.", "Run `make book` first.")
    paths = sorted(path for path in site.rglob("*") if path.is_file() and path.name != STAMP)
    # `index.html` first, for those who look inside.
    paths.sort(key=lambda path: path != site / "index.html")
    files = ((f"{FOLDER}/{path.relative_to(site).as_posix()}", path.read_bytes()) for path in paths)
    write_zip(target, files, edition_date(root))
    print(f"{target}: {len(paths)} files, {target.stat().st_size / 1e6:.1f} MB")
    return target
