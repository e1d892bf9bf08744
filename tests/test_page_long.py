"""The page in a real browser, from a file: it renders without an error and its script sorts. Part of `make test-all`."""

import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from bench.leaderboard import page
from bench.leaderboard.build import build_board
from tests.board_samples import REGISTERED, five

pytestmark = pytest.mark.long
NAMES = ("chromium", "chromium-browser", "google-chrome")


def browser(tmp_path: Path, *arguments: str) -> str:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    assert found, f"no browser: install one of {', '.join(NAMES)} (Debian: apt-get install chromium)"
    options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}")
    done = subprocess.run([found, *options, *arguments], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def test_the_page_in_a_browser(tmp_path: Path) -> None:
    board = build_board([*five("vgg16", 1.0), *five("iaia_bl", 2.2)], registrations=REGISTERED)
    path = page.write_page(board, tmp_path / "index.html")
    click = "<script>document.querySelectorAll('th button')[1].click();document.querySelectorAll('th button')[1].click()</script>"
    sorted_page = tmp_path / "sorted.html"
    sorted_page.write_text(path.read_text().replace("</body>", click + "</body>"))
    text = browser(tmp_path, "--dump-dom", sorted_page.as_uri())
    assert 'aria-sort="ascending"' in text
    rows = text.split('<tbody class="methods">')[1]
    assert rows.index("vgg16") < rows.index("iaia_bl"), "the script sorts by AUROC, upwards at the second click"
    picture = tmp_path / "page.png"
    browser(tmp_path, "--window-size=1280,1400", f"--screenshot={picture}", path.as_uri())
    with Image.open(picture) as image:
        assert image.size == (1280, 1400)
        assert len(image.convert("RGB").getcolors(2**20) or ()) > 50, "something is drawn"
