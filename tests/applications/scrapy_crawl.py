"""
A crawl of nothing, whose StatsMailer extension mails the statistics in the end through Scrapy's MailSender.
"""

from __future__ import annotations

import os

from tests.applications import changed_import

changed_import.load("scrapy.mail")

from scrapy import Spider  # type: ignore[import-not-found]  # noqa: E402  # there where this runs, and after the change
from scrapy.crawler import CrawlerProcess  # type: ignore[import-not-found]  # noqa: E402

SETTINGS = {
    "EXTENSIONS": {"scrapy.extensions.statsmailer.StatsMailer": 0},
    "STATSMAILER_RCPTS": ["bob@example.org", "carol@example.org"],
    "MAIL_FROM": "ann@example.net",
    "MAIL_HOST": "localhost",
    "MAIL_PORT": os.environ["SMTP_PORT"],
    "MAIL_USER": os.environ.get("SMTP_USER"),
    "MAIL_PASS": os.environ.get("SMTP_PASSWORD"),
    "MAIL_TLS": os.environ["SMTP_TLS"] == "starttls",
    "MAIL_SSL": os.environ["SMTP_TLS"] == "implicit",
}


class Nothing(Spider):  # type: ignore[misc]  # its base is not there where types are checked
    """Fetches an address that holds its own content."""

    name = "nothing"
    start_urls = ("data:,",)

    def parse(self, response: object) -> None:
        """Find nothing."""


process = CrawlerProcess(SETTINGS)
process.crawl(Nothing)
process.start()
