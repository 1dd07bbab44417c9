"""The page in a real browser, served by the shared endpoint."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from axe_core_python.selenium import Axe
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from derm_ray.bundle import load_bundle
from derm_ray.data.manifest import Manifest
from derm_ray.domain import MILK10K
from tests.conftest import Served

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(
        not (CHROMIUM.exists() and DRIVER.exists()) and "CI" not in os.environ,
        reason="needs a browser: apt-get install chromium chromium-driver",
    ),
]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
]


@dataclass
class Page:
    """The page as a person uses it."""

    driver: Chrome
    url: str
    secret: str
    clinical: str
    dermoscopy: str

    def open(self) -> None:
        self.driver.get(self.url)
        self.see("#model", "token")

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.driver.find_elements(By.CSS_SELECTOR, selector)]

    def see(self, selector: str, text: str) -> None:
        """Wait for a text to be seen."""
        WebDriverWait(self.driver, 60).until(lambda _: text in self.find(selector).text, f"no {text!r} in {selector}")

    def enter_token(self, token: str = "") -> None:
        self.find("#token").clear()
        self.find("#token").send_keys(token or self.secret, Keys.TAB)
        if not token:
            self.see("#model", "digest")  # its patient fields move the button, which a click might miss

    def score(self, **files: str) -> None:
        for name, path in files.items():
            self.find(f"#{name}").send_keys(path)
        self.find("#send").click()

    def violations(self) -> list[str]:
        """Return what axe-core finds wrong, the serious and the critical."""
        found = Axe().run(self.driver)["violations"]
        return [
            f"{problem['id']}: {node['html']}"
            for problem in found
            if problem["impact"] in ("serious", "critical")
            for node in problem["nodes"]
        ]

    def width(self) -> int:
        return int(self.driver.execute_script("return document.documentElement.scrollWidth"))  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def driver() -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with Chrome(options, ChromeService(str(DRIVER))) as chrome:
        chrome.set_window_size(1200, 1400)
        yield chrome


@pytest.fixture
def page(driver: Chrome, served: Served, pairs: Manifest) -> Page:
    pair = pairs.pairs()[0]
    opened = Page(driver, served.url, served.secret, str(pair.clinical_uri), str(pair.dermoscopy_uri))
    opened.open()
    return opened


def test_two_photos_become_an_answer(page: Page, served_model_uri: str) -> None:
    page.enter_token()
    page.see("#model", load_bundle(served_model_uri).model_digest[:12])
    page.score(clinical=page.clinical, dermoscopy=page.dermoscopy)
    page.see("#result-title", "%")
    assert page.driver.switch_to.active_element == page.find("#result-title")
    assert "both images" in page.find("#basis").text
    assert "research use only" in page.find("#basis").text
    ranking = [text.splitlines() for text in page.texts("#ranking li")]
    shares = [float(share.removesuffix(" %")) for _, share in ranking[:5]]
    assert ranking[0][0] + ", " + ranking[0][1] == page.find("#result-title").text
    assert ranking[0][0] in {d.title for d in MILK10K.diagnoses}
    assert shares == sorted(shares, reverse=True)
    page.find("#ranking button").click()
    assert len([text for text in page.texts("#ranking li") if text]) == 11
    tasks = page.texts(".task")
    assert [task.splitlines()[0] for task in tasks] == ["Cancer vs not", "Melanoma vs benign"]
    for task in tasks:
        assert (
            "Threshold for 90 % sensitivity: 99.9 % (reached 90.0 % sensitivity, 50.0 % specificity on validation): below"
            in task
        )
        assert (
            "Threshold for 95 % sensitivity: < 0.1 % (reached 90.0 % sensitivity, 50.0 % specificity on validation): above"
            in task
        )
    assert [text for text in page.texts("#table thead th") if text] == ["Diagnosis", "Clinical", "Dermoscopy", "Both"]
    assert any(word in page.find("#agreement").text for word in ("the same diagnosis", "Neither"))


def test_what_each_image_gives_is_what_it_names_not_what_is_most_probable(page: Page) -> None:
    """Decision offsets may name another diagnosis than the most probable one."""
    probable = {"nevus": 0.6, "melanoma": 0.4}
    answer = {
        "diagnosis": "melanoma",
        "per_input_predictions": dict.fromkeys(("clinical", "dermoscopy", "cross"), probable),
    }
    titles = {"nevus": "Nevus", "melanoma": "Melanoma"}

    def said(clinical: str, dermoscopy: str) -> str:
        given = {"clinical": clinical, "dermoscopy": dermoscopy, "cross": "melanoma"}
        return str(
            page.driver.execute_async_script(  # type: ignore[no-untyped-call]
                """
                const [answer, titles, done] = arguments;
                import("/static/result.js").then((module) => done(module.agreement(answer, titles)));
                """,
                {**answer, "per_input_diagnoses": given},
                titles,
            )
        )

    assert said("melanoma", "melanoma") == "Each image alone gives the same diagnosis: Melanoma."
    assert said("nevus", "melanoma") == (
        "The dermoscopy image alone gives the same diagnosis (40.0 %); the clinical photo alone gives Nevus (60.0 %)."
    )
    assert said("nevus", "nevus").startswith("Neither image alone gives Melanoma: the clinical photo alone gives Nevus")


def test_overlays_lie_on_the_photos_and_fade(page: Page) -> None:
    page.enter_token()
    page.score(clinical=page.clinical, dermoscopy=page.dermoscopy)
    page.see("#result-title", "%")
    layers = page.driver.find_elements(By.CSS_SELECTOR, ".layers")
    assert len(layers) == 2
    for layer in layers:
        photo, overlay = layer.find_elements(By.TAG_NAME, "img")
        for image in (photo, overlay):
            assert page.driver.execute_script("return arguments[0].naturalWidth", image) > 0  # type: ignore[no-untyped-call]
        assert (photo.rect, overlay.value_of_css_property("opacity")) == (overlay.rect, "0.7")
    page.find("#opacity").send_keys(Keys.HOME)
    assert {layer.find_element(By.CSS_SELECTOR, ".overlay").value_of_css_property("opacity") for layer in layers} == {
        "0"
    }
    assert page.find("#opacity-value").text == "0 %"


def test_one_photo_is_enough(page: Page) -> None:
    page.enter_token()
    page.score(dermoscopy=page.dermoscopy)
    page.see("#result-title", "%")
    assert "the dermoscopy image alone" in page.find("#basis").text
    assert not page.find("#per-input").is_displayed()
    assert len(page.driver.find_elements(By.CSS_SELECTOR, ".layers")) == 1
    assert "% sensitivity: 99.9 %" in page.texts(".task")[0]


def test_patient_data_is_optional_and_changes_the_answer(page: Page) -> None:
    page.enter_token()
    page.see("#patient-fields", "age (0 to 120)")
    page.score(clinical=page.clinical, dermoscopy=page.dermoscopy)
    page.see("#result-title", "%")
    before = page.find("#ranking").text
    page.find("#patient-age").send_keys("95", Keys.TAB)
    Select(page.find("#patient-sex")).select_by_visible_text("female")
    assert not page.find("#result").is_displayed(), "it would stand beside other patient data"
    page.find("#send").click()
    page.see("#result-title", "%")
    assert page.find("#ranking").text != before
    page.find("#patient-age").clear()
    Select(page.find("#patient-sex")).select_by_visible_text("unknown")
    page.find("#send").click()
    page.see("#result-title", "%")
    assert page.find("#ranking").text == before


def test_refusals_are_told_and_nothing_old_stays(page: Page, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image at all")
    page.find("#send").click()
    page.see("#error", "Choose a clinical photo or a dermoscopy image first.")
    page.score(clinical=page.clinical)
    page.see("#error", "This endpoint requires a token. (unauthorized)")
    page.enter_token("wrong")
    page.see("#model", "This token is not valid")
    page.enter_token()
    page.see("#model", "triple network")
    assert page.find("#error").text == ""
    page.find("#send").click()
    page.see("#result-title", "%")
    page.find("#clinical").send_keys(str(bad))
    assert not page.find("#result").is_displayed(), "it would stand beside another photo"
    page.find("#send").click()
    page.see("#error", "not_an_image")
    assert not page.find("#result").is_displayed()
    assert page.find("#error").get_attribute("role") == "alert"
    page.find("[data-modality=clinical] .remove").click()
    page.find("#send").click()
    page.see("#error", "Choose a clinical photo")


def test_a_photo_can_be_dropped(page: Page) -> None:
    page.enter_token()
    # No browser lets a test drop a file of the disk: the event is made with a file that the page reads from its field.
    page.find("#clinical").send_keys(page.clinical)
    page.driver.execute_script(  # type: ignore[no-untyped-call]
        """
        const moved = new DataTransfer();
        moved.items.add(document.querySelector("#clinical").files[0]);
        document.querySelector("[data-modality=clinical] .remove").click();
        const target = document.querySelector("[data-modality=dermoscopy]");
        target.dispatchEvent(new DragEvent("drop", { dataTransfer: moved, bubbles: true, cancelable: true }));
        """
    )
    assert str(page.find("#dermoscopy").get_attribute("value")).endswith("clinical.jpg")
    page.find("#send").click()
    page.see("#basis", "the dermoscopy image alone")


def test_the_keyboard_reaches_everything(page: Page) -> None:
    page.enter_token()
    page.find("#clinical").send_keys(page.clinical)
    page.find("#token").click()
    reached: list[str | None] = []
    while "send" not in reached and len(reached) < 12:
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        active = page.driver.switch_to.active_element
        reached.append(active.get_attribute("id") or active.get_attribute("class"))
    assert reached == [
        "clinical",
        "remove",
        "dermoscopy",
        *(f"patient-{name}" for name in ("age", "sex", "site")),
        "send",
    ]
    ActionChains(page.driver).send_keys(Keys.ENTER).perform()
    page.see("#result-title", "%")
    summary = page.find("summary")
    summary.send_keys(Keys.ENTER)
    assert "Limits" in page.find("#card").text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible_on_a_phone_and_in_the_dark(page: Page, scheme: str) -> None:
    page.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 320, "height": 640, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        assert page.violations() == []
        page.score(clinical=page.clinical)
        page.see("#error", "token")
        assert (page.violations(), page.width()) == ([], 320)
        page.enter_token()
        page.score(dermoscopy=page.dermoscopy)
        page.see("#result-title", "%")
        page.find("summary").click()
        assert (page.violations(), page.width()) == ([], 320)
        ground = page.find("body").value_of_css_property("background-color")
        assert (ground == "rgba(255, 255, 255, 1)") == (scheme == "light")
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_nothing_is_asked_of_anybody_else_and_nothing_breaks(page: Page) -> None:
    page.enter_token()
    page.driver.get_log("browser")  # type: ignore[no-untyped-call]
    page.score(clinical=page.clinical, dermoscopy=page.dermoscopy)
    page.see("#result-title", "%")
    loaded = page.driver.execute_script(  # type: ignore[no-untyped-call]
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    asked = {name for name in loaded if not name.startswith(("blob:", "data:"))}
    assert asked >= {page.url + "/static/page.js", page.url + "/v1/score"}
    assert all(name.startswith(page.url + "/") for name in asked)
    assert page.driver.get_log("browser") == []  # type: ignore[no-untyped-call]
