"""The report in a real browser: what a reader can do with it, and that nothing leaves the page."""

import re

import pytest

from reports.html import render
from reports.published_page import render_published
from tests.reports import hostile
from tests.reports.synthetic import entry, ok, rich, run_data

# WCAG 2: the contrast of every visible text against the nearest opaque background.
CONTRAST = """() => {
  const parse = (c) => (c.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (at) => { for (; at; at = at.parentElement) { const c = parse(getComputedStyle(at).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
  const bad = [];
  for (const at of document.querySelectorAll("body *")) {
    const own = [...at.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !at.checkVisibility() || at.closest("script, style")) continue;
    const style = getComputedStyle(at), svg = at.closest("svg");
    const a = light(parse(svg ? style.fill : style.color)), b = light(ground(at));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.push([at.tagName, at.textContent.slice(0, 40), ratio.toFixed(2)]);
  }
  return bad;
}"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_bytes(render(rich()).encode())
    return file


@pytest.fixture
def opened(watched, path):
    """Opens the report, which asks for nothing but itself."""

    def open_page(file=path, anchor="", **options):
        return watched(f"file://{file}{anchor}", (f"file://{file}", "data:"), **options)

    return open_page


def column(page, table, at):
    return page.eval_on_selector_all(f"{table} tbody tr", f"rows => rows.map(r => r.cells[{at}].innerText.trim())")


def test_a_table_is_sorted_by_its_headers_with_mouse_and_keyboard(opened):
    page = opened()
    table = "section[aria-labelledby=methods] table"
    before = column(page, table, 0)
    ratio = page.locator(f"{table} thead button", has_text="Ratio, %")
    ratio.click()
    assert column(page, table, 1) == ["59.3 (57.4 to 62.0)", *column(page, table, 1)[1:3], "base"]
    assert page.locator(f"{table} [aria-sort]").get_attribute("aria-sort") == "ascending"
    ratio.focus()
    page.keyboard.press("Enter")
    assert column(page, table, 1)[-2:] == ["59.3 (57.4 to 62.0)", "base"]  # what has no number stays last
    reach = page.locator(f"{table} thead button", has_text=re.compile("^needle"))
    reach.click()
    assert column(page, table, 3)[0] == "[256, 256]"
    assert column(page, table, 3)[-1] == "[1024, 1024]"
    page.locator(f"{table} thead button", has_text="Method").click()
    assert column(page, table, 0) == sorted(before)


def test_numbers_are_sorted_as_numbers(opened):
    page = opened()
    table = "section[aria-labelledby=m0-against] table"
    page.locator(f"{table} thead button", has_text="Length").click()
    assert column(page, table, 2) == sorted(column(page, table, 2), key=int)
    page.locator(f"{table} thead button", has_text="Difference").click()
    shown = [float(text) for text in column(page, table, 3) if text != "–"]
    assert shown == sorted(shown)


def test_a_permalink_leads_to_its_row_and_its_cell(opened, path):
    page = opened(anchor="#m0-group0-yarn")
    assert page.locator("tr:has(:target)").count() == 1
    assert page.locator(":target").inner_text() == "yarn"
    assert page.locator(":target").bounding_box()["y"] < page.viewport_size["height"]
    key = next(c["key"] for c in rich().manifest["cells"] if c["task"] == "keys4" and c["method"] == "yarn")
    page.evaluate(f"location.hash = 'cell={key[:8]}'")
    page.wait_for_timeout(100)
    assert page.locator(":target").inner_text().startswith("100")


def test_a_permalink_opens_what_is_folded(opened):
    page = opened()
    link = page.locator("details.sample").first.get_attribute("id")
    page.evaluate("document.querySelector('details.more').open = false")
    task = page.locator("details.more tbody th").first.get_attribute("id")
    page.evaluate(f"location.hash = '{task}'")
    page.wait_for_timeout(100)
    assert page.locator("details.more").first.get_attribute("open") is not None
    page.evaluate(f"location.hash = '{link}'")
    page.wait_for_timeout(100)
    assert page.locator(":target").get_attribute("id") == link


def test_the_theme_follows_the_system_and_the_reader(opened):
    page = opened(color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(20, 23, 28)"
    page.get_by_label("light", exact=True).check()
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page.reload()
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page.get_by_label("dark", exact=True).check()
    assert page.evaluate(ground) == "rgb(20, 23, 28)"


def test_without_scripts_the_theme_tables_and_files_still_work(opened):
    page = opened(java_script_enabled=False)
    page.get_by_label("dark", exact=True).check()
    assert page.locator("thead button").count() == 0
    assert page.locator("a.save-svg:visible").count() == 0
    with page.expect_download() as download:
        page.locator("p.save a", has_text="CSV").first.click()
    assert download.value.suggested_filename == "m0-methods.csv"
    assert download.value.path().read_text().startswith("method,retention,")


def test_a_figure_is_saved_as_it_stands(opened):
    page = opened(color_scheme="dark")
    with page.expect_download() as download:
        page.locator("a.save-svg").first.click()
    text = download.value.path().read_text()
    assert text.startswith("<svg")
    assert 'xmlns="http://www.w3.org/2000/svg"' in text
    assert "var(" not in text
    assert "#0072b2" in text


@pytest.mark.parametrize("name", ["report", "longrope2"])
def test_no_sideways_scrolling_on_a_phone(opened, tmp_path, name):
    file = tmp_path / "page.html"
    file.write_text(render(rich()) if name == "report" else render_published(name), encoding="utf-8")
    page = opened(file, viewport={"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(opened, scheme):
    page = opened(color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate(CONTRAST) == []


def test_the_contrast_check_can_fail(opened):
    page = opened()
    page.evaluate("document.querySelector('h1').style.color = '#999'")
    assert [found[0] for found in page.evaluate(CONTRAST)] == ["H1"]


def test_print_is_light_and_unfolded(opened):
    page = opened(color_scheme="dark")
    page.get_by_label("dark", exact=True).check()
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(26, 29, 33)"
    assert not page.locator("nav").is_visible()
    assert page.pdf().startswith(b"%PDF")


def test_everything_is_reached_with_the_keyboard(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    unnamed = page.eval_on_selector_all(
        "[tabindex], button, a, input, summary",
        "all => all.filter(e => !(e.ariaLabel || e.textContent.trim() || e.labels?.length)).map(e => e.outerHTML)",
    )
    assert unnamed == []
    assert page.evaluate("document.querySelectorAll('.box:not([tabindex]), .scroll:not([tabindex])').length") == 0


def test_what_a_model_wrote_stays_text(opened, tmp_path):
    text = hostile.TEXT
    cells = [entry(m, "needle", "keys1", n, 2, model=text) for m in ("vanilla", text) for n in (256, 1024)]
    record = {"output": text, "answers": (text,), "excerpt": {"head": text, "needle": text, "tail": text}}
    run = run_data(cells, lambda c, i: ok(c, i, float(i), metadata={"depth_fraction": 0.5}, **record), title=text)
    file = tmp_path / "hostile.html"
    file.write_bytes(render(run).encode())
    page = opened(file)
    assert page.locator("img").count() == 0
    assert page.evaluate("document.scripts.length") == 1
    assert page.locator("h1").inner_text().startswith("</script><script>alert(1)")
