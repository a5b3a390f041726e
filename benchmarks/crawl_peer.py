"""A Scrapy spider for benchmarks/crawl.py: the same links, the same files, nothing else.

    python crawl_peer.py START... --out FOLDER --concurrency 32 [--way tuned|pipeline|usual]

`tuned` reads links by XPath, asks for each once and writes the bytes itself; `pipeline` leaves the writing to FilesPipeline;
`usual` is the CrawlSpider with a LinkExtractor and FilesPipeline, as Scrapy's documentation has it.

Started by benchmarks/crawl.py with the interpreter that has Scrapy; its last line is a JSON object.
"""
import argparse
import hashlib
import json
import logging
import re
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import scrapy
from scrapy.crawler import CrawlerProcess
from scrapy.linkextractors import LinkExtractor
from scrapy.spiders import CrawlSpider, Rule

FOLLOWED = re.compile(r"(/|\.html?)([?#]|$)")


class Usual(CrawlSpider):
    """The same by Scrapy's own rules."""

    name = "usual"
    rules = (Rule(LinkExtractor(allow=FOLLOWED.pattern, unique=True), callback="found", follow=True),)

    def parse_start_url(self, response):
        return self.found(response)

    def found(self, response):
        yield {"file_urls": sorted({response.urljoin(src.strip()) for src in response.css("img::attr(src)").getall()})}


class Spider(scrapy.Spider):
    """Follow every link to a page of the same site, store every picture shown."""

    name = "peer"

    def parse(self, response):
        if not isinstance(response, scrapy.http.HtmlResponse):
            return
        base = response.urljoin(response.xpath("//base/@href").get(""))
        pictures = {urljoin(base, src.strip()) for src in response.xpath("//img/@src").getall()}
        pages = {url for href in set(response.xpath("//a/@href").getall()) if FOLLOWED.search(url := urljoin(base, href.strip()).partition("#")[0]) and url.startswith(self.root)}
        if self.files_pipeline:
            yield {"file_urls": sorted(pictures - self.seen)}
        else:
            for url in sorted(pictures - self.seen):
                yield scrapy.Request(url, self.store, priority=-1)
        for url in sorted(pages - self.seen):
            yield scrapy.Request(url, self.parse)
        self.seen |= pictures | pages  # Scrapy's own filter makes a fingerprint of every link; this spares most of that

    def store(self, response):
        path = self.out / hashlib.sha256(response.body).hexdigest()
        if not path.exists():
            path.write_bytes(response.body)


def main() -> None:
    """Crawl, and print how many answers there were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--way", choices=["tuned", "pipeline", "usual"], default="tuned")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    settings = {
        "ROBOTSTXT_OBEY": True, "CONCURRENT_REQUESTS": args.concurrency, "CONCURRENT_REQUESTS_PER_DOMAIN": args.concurrency, "DOWNLOAD_DELAY": 0,
        "AUTOTHROTTLE_ENABLED": False, "COOKIES_ENABLED": False, "TELNETCONSOLE_ENABLED": False, "LOG_LEVEL": "ERROR", "RETRY_ENABLED": False, "MEMUSAGE_ENABLED": False,
        "USER_AGENT": "peer (+https://example.com/)", "FILES_STORE": str(args.out), "REACTOR_THREADPOOL_MAXSIZE": 4, "LOGSTATS_INTERVAL": 0,
        "ITEM_PIPELINES": {"scrapy.pipelines.files.FilesPipeline": 1} if args.way != "tuned" else {},
    }  # fmt: skip
    logging.getLogger("scrapy").setLevel(logging.ERROR)
    process = CrawlerProcess(settings)
    crawler = process.create_crawler(Usual if args.way == "usual" else Spider)
    root = re.match(r"https?://[^/]+/", args.start[0])[0]
    own = {} if args.way == "usual" else {"root": root, "seen": set(), "out": args.out, "files_pipeline": args.way == "pipeline"}
    process.crawl(crawler, start_urls=args.start, allowed_domains=[urlsplit(root).hostname], **own)
    process.start()
    stats = crawler.stats.get_stats()
    print(json.dumps({"answers": stats.get("downloader/response_count", 0), "seconds": stats.get("elapsed_time_seconds", 0)}))


if __name__ == "__main__":
    main()
