"""The page in Chromium: every task by mouse and keyboard, at three widths, light and dark, with no request outside."""

import re
import shutil

import pytest
from playwright.sync_api import expect, sync_playwright

SIZES = {"phone": (375, 740, "light"), "tablet": (820, 1100, "dark"), "desktop": (1280, 900, "light")}


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--force-prefers-reduced-motion"]
        )
        yield found
        found.close()


@pytest.fixture(params=SIZES)
def page(request, browser, address):
    """The page at one size; what it logs, and whom it asks, is looked at afterwards."""
    width, height, scheme = SIZES[request.param]
    found = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    found.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    complaints, asked = [], []
    found.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.on("request", lambda each: asked.append(each.url))
    found.goto(address)
    found.get_by_role("tab").first.wait_for()
    yield found
    assert found.locator("body").bounding_box()["width"] <= width, "the page is wider than the window"
    assert all(url.startswith((address, "data:")) for url in asked)
    found.close()
    # A status above 399 is logged, too; the page tells it, or leaves out a chat's oldest turns.
    assert not [text for text in complaints if not text.startswith("Failed to load resource")], complaints


def test_every_task(page, models):
    """What the page shows is what the models say."""
    panel = page.locator("[role=tabpanel]:visible")
    predictors = {name: model.predictor for name, model in models.items()}

    def opened(tab, *texts):
        page.get_by_role("tab", name=tab).click()
        for place, text in enumerate(texts):
            panel.locator("textarea").nth(place).fill(text)

    opened("Completion", "the ship")
    panel.locator("summary").click()
    panel.get_by_label("Temperature").fill("0")
    panel.get_by_label("New tokens").fill("12")
    panel.get_by_role("button", name="Continue").click()
    expect(panel.locator("p[role=status]")).to_contain_text("12 tokens")
    expected = predictors["gpt"].generate("the ship", max_new_tokens=12)
    assert panel.locator(".result .text").text_content() == expected

    opened("Chat", "What is it?")
    panel.locator("summary").click()
    panel.get_by_label("Seed").fill("3")
    panel.get_by_label("Message").press("Enter")
    answer = panel.locator("li.assistant")
    expect(panel.get_by_role("button", name="Stop")).to_be_disabled()
    assert len(answer.text_content()) > len("Model: ") and panel.locator("li.user").count() == 1
    panel.get_by_label("Message").fill("A ship!")
    panel.get_by_role("button", name="Send").click()
    expect(panel.locator("li.user")).to_have_count(2)
    expect(panel.get_by_role("button", name="Send")).to_be_enabled()

    opened("Classification", "the ship left")
    panel.get_by_role("button", name="Classify").click()
    (found,) = predictors["classifier"].predict("the ship left", probabilities=True)
    expect(panel.locator(".bar.best")).to_contain_text(f"{found['label']}{100 * found['score']:.1f} %")

    opened("Tags", "ann 😀 sings in rome")
    panel.get_by_role("button", name="Tag").click()
    (found,) = predictors["tagger"].predict("ann 😀 sings in rome")
    expect(panel.locator(".faint")).to_contain_text("found")
    marks = [mark.removesuffix("P") for mark in panel.locator("mark").all_text_contents()]
    assert marks == [entity["text"] for entity in found["entities"]]
    check_colors(page)

    opened("Questions", "the ship left the harbor", "What left?")
    panel.get_by_role("button", name="Answer").click()
    (found,) = predictors["reader"].predict([("What left?", "the ship left the harbor")])
    expect(panel.locator(".answer")).to_have_text(found["answer"] or "No answer in this text")

    opened("Translation", "the ship")
    panel.get_by_role("button", name="Translate").click()
    (found,) = predictors["translator"].predict(["the ship"])
    expect(panel.locator(".result .text")).to_have_text(found["translation"])

    opened("Masked words", "the [MASK] left")
    panel.get_by_role("button", name="Fill in").click()
    (found,) = predictors["masked"].predict(["the [MASK] left"])
    expect(panel.locator(".bar .name").first).to_have_text(found["masks"][0][0]["token"])

    opened("Similarity", "the ship", "the ship")
    panel.get_by_role("button", name="Compare").click()
    expect(panel.locator(".answer")).to_have_text("Cosine 1.000")


def check_colors(page):
    """Checks that eight kinds of marks have eight colors, each told from its ground by 4.5 : 1."""
    kinds = [{"start": place, "end": place + 1, "label": f"K{place}"} for place in range(8)]
    found = page.evaluate(
        """spans => {
          const text = marked("abcdefgh", spans);
          const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
          document.querySelector("[role=tabpanel]:not([hidden])").append(text);
          const rgb = color => {
            canvas.fillStyle = color;
            canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data];
          };
          const colors = [...text.querySelectorAll("mark")].map(mark => [
            rgb(getComputedStyle(mark.querySelector("small")).color), rgb(getComputedStyle(mark).backgroundColor)]);
          text.remove();
          return colors;
        }""",
        kinds,
    )
    assert len({tuple(color) for color, _ in found}) == len({tuple(ground) for _, ground in found}) == 8
    for color, ground in found:
        dark, bright = sorted((luminance(color), luminance(ground)))
        assert (bright + 0.05) / (dark + 0.05) >= 4.5


def luminance(color):
    """The relative luminance of WCAG 2."""
    parts = [part / 255 for part in color[:3]]
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def test_keyboard_stop_and_errors(page, models):
    """Arrows change the tab, Ctrl+Enter asks, Escape stops and frees the slot, and errors are told in a sentence."""
    tabs = page.get_by_role("tab")
    tabs.first.focus()
    page.keyboard.press("ArrowLeft")
    expect(tabs.last).to_be_focused()
    expect(tabs.last).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Home")
    panel = page.locator("[role=tabpanel]:visible")
    panel.locator("textarea").fill("the ship")
    panel.locator("summary").click()
    panel.get_by_label("New tokens").fill("64")
    panel.locator("textarea").press("Control+Enter")
    page.keyboard.press("Escape")
    expect(panel.locator("p[role=status]")).to_have_text(re.compile("Stopped|64 tokens"))
    expect(panel.get_by_role("button", name="Continue")).to_be_enabled()
    page.get_by_role("tab", name="Masked words").click()
    panel.locator("textarea").fill("no mask")
    panel.get_by_role("button", name="Fill in").click()
    expect(page.get_by_role("alert")).to_contain_text("holds no [MASK]")
    markup = "<img src=x onerror=alert(1)>"
    page.get_by_role("tab", name="Classification").click()
    panel.locator("textarea").first.fill(markup)
    panel.get_by_role("button", name="Classify").click()
    panel.locator(".bar").first.wait_for()
    assert page.locator("img").count() == 0


def test_a_key_is_asked_for(browser, models, serving):
    from kerasllm.serving.context import Context

    with serving(Context(models, api_key="secret")) as address:
        page = browser.new_page()
        page.goto(address)
        page.get_by_label("Key of this server").fill("secret")
        page.get_by_role("button", name="Use this key").click()
        expect(page.get_by_role("tab").first).to_be_visible()
        page.close()
