"""A browser without a window, for what a page does when it is opened."""

import pathlib
import shutil
import subprocess

import pytest

CHROMIUM = next(
    (
        path
        for name in ("chromium-headless-shell", "chromium", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; `make packages` installs it")


def open_page(document: str, folder: pathlib.Path, script: str, width: int = 1200) -> str:
    """What the page is, as HTML, after `script` ran in it. What the page's own policy forbids does not run; `script`
    comes from a page around it that has the document in a frame."""
    (folder / "page.html").write_text(document, encoding="utf-8")
    (folder / "around.html").write_text(
        f"""<!doctype html><iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe>
<pre></pre><script>
addEventListener("load", () => {{
  const frame = document.querySelector("iframe");
  const page = frame.contentDocument, view = frame.contentWindow;
  document.querySelector("pre").textContent = JSON.stringify((() => {{ {script} }})());
  frame.remove();
}});
</script>""",
        encoding="utf-8",
    )
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
            f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900", "--virtual-time-budget=5000",
            "--dump-dom", (folder / "around.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout.partition("<pre>")[2].partition("</pre>")[0]
