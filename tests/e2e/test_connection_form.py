"""A person fills in the connection form of Airflow 3.3 and presses Test: in Chromium, against the emulator."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import airflow
import pytest
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    NoSuchElementException,
    StaleElementReferenceException,
    TimeoutException,
    WebDriverException,
)
from selenium.webdriver import Chrome, ChromeOptions, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from airflow_provider_importprog.emulator import Emulator
from tests.e2e.conftest import Rig

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not airflow.__version__.startswith("3.3."), reason="the form of another Airflow looks otherwise"
    ),
]

T = TypeVar("T")

LOGIN, PASSWORD, WRONG = "root", "right-Horse-battery", "wrong-Horse-battery"
CHROMIUM = (
    "--headless=new",
    "--no-sandbox",  # it cannot have one as root
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,1600",
)
DIALOG = "//*[@role='dialog']"


@pytest.fixture(scope="module")
def programs() -> tuple[str, str]:
    """Chromium and its driver: Debian's packages chromium and chromium-driver."""
    found = shutil.which("chromium"), shutil.which("chromedriver")
    if found[0] and found[1]:
        return found[0], found[1]
    missing = "Chromium or its driver is not installed: apt-get install chromium chromium-driver"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator("simulated", token=f"{LOGIN}:{PASSWORD}") as running:
        yield running


@pytest.fixture
def form(programs: tuple[str, str], rig: Rig, tmp_path: Path) -> Iterator[Form]:
    """The list of connections, in a browser of its own."""
    options = ChromeOptions()
    options.binary_location = programs[0]
    for argument in (*CHROMIUM, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(argument)
    browser = Chrome(options=options, service=Service(programs[1]))
    try:
        browser.get(f"{rig.airflow.url}/connections")
        yield Form(browser)
    finally:
        with contextlib.suppress(WebDriverException):
            browser.save_screenshot(str(tmp_path / "last.png"))
        browser.quit()


class Form:
    """What a person does, each time as soon as the page lets it be done."""

    def __init__(self, browser: Chrome) -> None:
        self.browser = browser

    def until(self, what: str, found: Callable[[], T]) -> T:
        """Return what is found as soon as there is anything."""
        not_yet = (
            ElementClickInterceptedException,
            ElementNotInteractableException,
            NoSuchElementException,
            StaleElementReferenceException,
        )
        waiting = WebDriverWait(self.browser, 30, 0.1, ignored_exceptions=not_yet)
        try:
            return waiting.until(lambda _: found())
        except TimeoutException:
            pytest.fail(f"no {what}; the page says:\n{self.text()}")

    def text(self) -> str:
        return self.browser.find_element(By.TAG_NAME, "body").text

    def all(self, path: str) -> list[WebElement]:
        return self.browser.find_elements(By.XPATH, path)

    def click(self, path: str) -> None:
        self.until(path, lambda: self.browser.find_element(By.XPATH, path).click() is None)

    def press(self, button: str, within: str = "") -> None:
        self.click(f"{within}//button[@aria-label='{button}' or normalize-space()='{button}']")

    def fill(self, name: str, words: str) -> None:
        def filled() -> bool:
            field = self.browser.find_element(By.NAME, name)
            field.send_keys(Keys.CONTROL, "a")
            field.send_keys(words)
            return field.get_attribute("value") == words

        self.until(f"field {name}", filled)

    def choose(self, option: str, after: str) -> None:
        """Choose from the list that follows a label."""
        self.click(f"{DIALOG}//*[text()='{after}']/following::*[@role='combobox'][1]/ancestor::*[2]")
        self.click(f"//*[@role='option' and normalize-space()='{option}']")

    def add(self, connection_id: str) -> None:
        """Open an empty form of our type."""
        self.press("Add Connection")
        self.fill("connection_id", connection_id)
        self.choose("Milvus / Zilliz Cloud import", "Connection Type")
        self.until("field host", lambda: self.browser.find_element(By.NAME, "host").is_displayed())

    def open(self, section: str) -> None:
        """Open a section of the form, and wait until it has unfolded."""
        button = f"{DIALOG}//button[normalize-space()='{section}']"
        self.click(button)
        self.until(
            section, lambda: self.browser.find_element(By.XPATH, button).get_attribute("aria-expanded") == "true"
        )

    def save(self) -> None:
        self.press("Save", DIALOG)
        self.until("end of saving", lambda: not self.all(DIALOG))

    def test(self, connection_id: str, verdict: str) -> str:
        """Press Test in the connection's line and return the sentence under the verdict."""
        self.press("Test Connection", f"//tr[contains(., '{connection_id}')]")
        said = f"//*[@data-part='title' and text()='{verdict}']/following::*[@data-part='description'][1]"
        return self.until(verdict, lambda: self.browser.find_element(By.XPATH, said).text)


def test_the_form_speaks_of_the_import_api(form: Form) -> None:
    form.add("importprog_words")
    said = form.text()
    for label in ("Base URL", "User name", "Password or API key", "Port", "Scheme"):
        assert label in said

    def shown(name: str) -> str | None:
        return form.browser.find_element(By.NAME, name).get_attribute("placeholder")

    assert shown("host") == "http://localhost"
    assert shown("port") == "19530 for Milvus, 443 for Zilliz Cloud"
    assert shown("login") == "root; leave it empty for an API key"

    form.open("Extra Fields")
    form.until("extra fields", lambda: form.browser.find_element(By.NAME, "element_cert").is_displayed())
    said = form.text()
    for label in (
        "Cluster ID",
        "Project ID",
        "Region ID",
        "Database",
        "API version",
        "Idempotency keys",
        "Request timeout",
        "Requests per second",
        "Console URL",
        "Verify TLS",
        "Client certificate",
    ):
        assert label in said


def test_a_connection_is_saved_as_filled_in_and_tested(form: Form, rig: Rig, emulator: Emulator) -> None:
    host, _, port = emulator.url.rpartition(":")
    form.add("filled_in")
    form.fill("host", host)
    form.fill("port", port)
    form.fill("login", LOGIN)
    form.fill("password", PASSWORD)
    form.open("Extra Fields")
    form.fill("element_db_name", "books")
    form.fill("element_timeout", "60")
    form.choose("v2", "API version")
    form.save()

    saved = rig.airflow.api("GET", "/api/v2/connections/filled_in")
    assert (saved["conn_type"], saved["host"], saved["port"]) == ("importprog", host, int(port))
    assert (saved["login"], saved["schema"]) == (LOGIN, None)
    extra = {name: value for name, value in json.loads(saved["extra"]).items() if value is not None}
    assert extra == {"api_version": "v2", "db_name": "books", "timeout": 60}

    said = form.test("filled_in", "Test Connection Successful")
    assert said == f"{emulator.url} answers, accepts the token, and serves v2."

    form.press("Edit Connection", "//tr[contains(., 'filled_in')]")
    form.fill("password", WRONG)
    form.save()
    said = form.test("filled_in", "Test Connection Failed")
    assert said.startswith(f"{emulator.url} answers. The server does not accept the token: ")
    assert said.endswith(" Check the user name and the password.")
    assert WRONG not in form.browser.page_source
