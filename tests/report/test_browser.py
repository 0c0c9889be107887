"""The page in a real browser: Debian's Chromium, and axe-core of npm for accessibility."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from made_sets import made_set
from made_studies import OBJECTIVES, searched

import raydd
from raydd.report.page import Page, render
from raydd.report.search import sweep_parts
from raydd.report.sets import PageOptions, set_parts
from raydd.sets.read import open_set
from raydd.tracking.history import History

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="there is no chromium; apt-get install chromium brings it"),
]

# Draws every chart, asks for all pairs, then runs axe and sends what it found to the page around it.
AXE = """
<script>
addEventListener("load", async () => {
  await plotly;
  const loaded = performance.now();
  document.querySelectorAll(".plot").forEach(draw);
  const folded = rest.offsetHeight;
  button.click();
  const pairs = [folded, rest.offsetHeight];
  const drawn = performance.now();
  document.querySelectorAll("details").forEach((one) => (one.open = true));
  const found = await axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"] });
  const violations = found.violations.map((one) => ({ id: one.id, where: one.nodes.slice(0, 3).map((n) => n.html) }));
  const width = document.documentElement.scrollWidth / innerWidth;
  const plots = document.querySelectorAll(".plot .main-svg").length;
  const checks = found.passes.length;
  parent.postMessage({ violations, checks, loaded, drawn, width, plots, pairs, inner: innerWidth }, "*");
});
</script>
"""


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    if not shutil.which("npm"):
        pytest.skip("there is no npm; apt-get install npm brings it")
    folder = tmp_path_factory.mktemp("axe")
    subprocess.run(["npm", "install", "--prefix", str(folder), "axe-core@4"], check=True, capture_output=True)
    return (folder / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page() -> str:
    """A page with every section: a sweep of 1,000 trials, and a small set with its pictures."""
    made = made_set()
    shown = set_parts(open_set(made.folder), raydd.open(made.config, made.store), PageOptions(frames=3))
    parts = sweep_parts(searched(1000), OBJECTIVES, History("none", ""))
    everything = Page(
        title="A sweep of a thousand trials",
        lead="Made for a browser.",
        **{**parts, **shown},
        commands=("raydd run",),
        configuration="data: {}",
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("raydd.report.page.AT_FIRST", 4)
        return render(everything)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible_and_fits(page: str, axe: str, width: int, scheme: str, tmp_path: Path):
    file = tmp_path / "page.html"
    file.write_text(page.replace("</body>", f"<script>{axe}</script>{AXE}</body>"), encoding="utf-8")
    found = in_browser(file, width, scheme)
    assert found["violations"] == []
    assert found["checks"] > 20
    assert found["inner"] == width
    assert found["width"] <= 1
    assert found["plots"] >= 10
    folded, shown = found["pairs"]
    assert folded == 0
    assert shown > 100
    print(f"{scheme}, {width}: loaded {found['loaded']:.0f} ms, all charts drawn {found['drawn']:.0f} ms")


def in_browser(file: Path, width: int, scheme: str) -> dict:
    """What the page left in its `output` when the browser had run its scripts."""
    # A headless window is no narrower than 500 pixels, so the page stands in a frame of a phone's width.
    around = file.with_name("around.html")
    around.write_text(
        '<html style="color-scheme: light dark"><output></output><script>addEventListener("message", (event) => '
        '(document.querySelector("output").textContent = JSON.stringify(event.data)))</script>'
        f'<iframe src="{file.name}" width="{width}" height="900" style="border: 0"></iframe></html>'
    )
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader",
            "--allow-file-access-from-files", "--window-size=1400,1000", "--virtual-time-budget=120000",
            f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}", "--dump-dom", f"file://{around}",
        ],
        check=True, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    answer = re.search(r"<output>(.*?)</output>", done.stdout, re.DOTALL)
    assert answer, done.stderr[-2000:]
    return json.loads(answer[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
