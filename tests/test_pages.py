"""Readers of pages, sitemaps, feeds, lists, APIs and folders: what they find, how a licence is known, and what no junk makes them do."""
import csv
import datetime
import gzip
import io
import json
import random
import re
import time
import tracemalloc
from pathlib import Path

import pytest
from house import CONF
from omegaconf import OmegaConf
from w3lib.url import canonicalize_url

from fullstack_ml.core import BadConfig, BadInput, FsmlError, Refused, TooLarge, compose_cfg
from fullstack_ml.fetch import canonical
from fullstack_ml.pages import (
    Found, check_rules, pick, read_ai_txt, read_api, read_feed, read_folder, read_list, read_page, read_signs, read_sitemap, read_tdmrep, spdx,
)  # fmt: skip

DATA = Path(__file__).parent / "data"
BY, BY_SA, ZERO = "https://creativecommons.org/licenses/by/4.0/", "https://creativecommons.org/licenses/by-sa/4.0/", "http://creativecommons.org/publicdomain/zero/1.0/"
PAGE = "http://gallery.example/deep/page"


def source(name="web", *overrides):
    """The rules of a source as the readers get them."""
    base = ["source=web", "source.name=mine", "source.start=[http://gallery.example/]"] if name == "web" else [f"source={name}"]
    return OmegaConf.to_container(compose_cfg("crawl", [*base, *overrides]).source)


WEB = source()


def with_rules(**changed):
    return {**WEB, **changed}


def figure(src="7.png", inside=""):
    return f'<figure><img src="{src}"><figcaption>a seven</figcaption>{inside}</figure>'


def ld(value):
    return f'<script type="application/ld+json">{value if isinstance(value, str) else json.dumps(value)}</script>'


def only(text, rules=WEB, headers=None):
    """The one picture of a page."""
    (item,) = read_page(text, PAGE, rules, headers).items
    return item


# ---------------------------------------------------------------- pages


def test_a_page_gives_its_links_and_pictures():
    found = read_page(figure() + '<a href="/b?y=2&amp;x=1#top">b</a><a href="c">c</a><a href="c">again</a><a href="mailto:ada@example.com">a</a><a href="/login">in</a>', PAGE, WEB)
    assert found.links == [("http://gallery.example/b?x=1&y=2", "page"), ("http://gallery.example/deep/c", "page")]
    (item,) = found.items
    assert (item.url, item.page_url, item.caption, item.source) == ("http://gallery.example/deep/7.png", PAGE, "a seven", "mine")
    assert (item.licence, item.licence_from, found.opt_out, found.nofollow) == ("", "", "", False)


def test_links_are_canonical_whatever_they_look_like():
    """The quick way for plain links gives what the careful way gives."""
    rng, parts = random.Random(0), ["a", "b.html", "..", ".", "", "c d", "é", "%7e", "%2f", "x;y=1", "-", "~u", "7@2x.png", "A"]
    queries = ["", "?", "?b=2&a=1", "?a", "?a=&b=%20", "?b=1&a-b=1&a=2&a=1", "?x=1+2", "?a=é", "#top", "?a=1#x", "?a.b=1&a-b=0&a=3"]
    hosts = ["", "/", "//cdn.example/", "http://Gallery.example/", "http://gallery.example/", "https://cdn.example:8080/", "http://1.2.3.4/", "javascript:", "http://u:p@h.example/", "?", "http:", "///"]
    hosts += ["http://gallery.example", "http://gallery.example.evil.example/", "http://gallery.example:80/", "http://-a.example/", "http://a..example/"]
    links = {rng.choice(hosts) + "/".join(rng.choices(parts, k=rng.randrange(4))) + rng.choice(queries) for _ in range(4000)}
    bases = ["http://gallery.example/", "http://gallery.example/a/b", "http://gallery.example/a/b/?q=1/2", "http://gallery.example/a/../b/x", "http://gallery.example:8080/x//y/z", "http://Gallery.example/A/é/"]
    for base in bases:
        tags = "".join(f'<a href="{link.replace("&", "&amp;")}">x</a>' for link in sorted(links))
        expected = dict.fromkeys(u for link in sorted(links) if link and (u := canonical(link, base)))
        assert [u for u, _ in read_page(tags, base, with_rules(deny=[])).links] == list(expected), base
        assert all(canonicalize_url(u) == u for u in expected)


def test_a_base_element_moves_relative_addresses():
    assert only('<base href="/other/">' + figure("../pic/7.png")).url == "http://gallery.example/pic/7.png"


@pytest.mark.parametrize("how, headers, text", [
    ("header", {"X-Robots-Tag": "noindex, NoFollow"}, ""), ("meta", {}, '<meta name="ROBOTS" content="noindex,nofollow">'),
    ("none", {}, '<meta name="robots" content="none">'), ("our own name", {}, '<meta name="fullstack_ml" content="nofollow">'),
])  # fmt: skip
def test_a_page_that_asks_not_to_follow_its_links(how, headers, text):
    assert read_page(text + '<a href="/b">b</a>', PAGE, WEB, headers).nofollow


def test_what_is_said_to_another_agent_is_not_said_to_us():
    assert read_signs({"X-Robots-Tag": "otherbot: nofollow, noai", "a": "b"}, [("googlebot", "nofollow, noai")]) == ("", False)
    assert read_signs({"X-Robots-Tag": "unavailable_after: 25 Jun 2030 15:00:00 PST, noai"}) == ("noai", False)


def test_a_link_marked_nofollow_is_left_alone():
    assert read_page('<a href="/a" rel="nofollow ugc">a</a><a href="/b" rel="next">b</a>', PAGE, WEB).links == [("http://gallery.example/b", "page")]


@pytest.mark.parametrize("headers, text, signs", [
    ({}, '<meta name="robots" content="noai, noimageai">', "noai noimageai"), ({"x-robots-tag": "noimageai"}, "", "noimageai"),
    ({"tdm-reservation": "1"}, "", "tdm-reservation"), ({}, '<meta name="tdm-reservation" content="1">', "tdm-reservation"),
    ({"TDM-Reservation": "0"}, '<meta name="robots" content="index">', ""), ({"tdm-reservation": "1"}, '<meta name="tdm-reservation" content="0">', ""),
    ({"tdm-reservation": "1", "X-Robots-Tag": "noai"}, "", "noai tdm-reservation"), ({}, '<meta name="description" content="noai">', ""),
])  # fmt: skip
def test_signs_against_learning(headers, text, signs):
    found = read_page(text + figure(), PAGE, WEB, headers)
    assert (found.opt_out, found.items[0].opt_out) == (signs, signs)


def test_ai_txt():
    text = "# Spawning AI\nUser-Agent: *\nDisallow: *.jpg\nDisallow: /secret/\nAllow: *.txt\n"
    assert read_ai_txt(text, "/a/7.jpg") and read_ai_txt(text, "/secret/7.png") and not read_ai_txt(text, "/a/7.png")
    assert read_ai_txt("User-agent: *\nDisallow: /", "/") and not read_ai_txt("<html>Not found</html>", "/a") and not read_ai_txt("", "/a")


def test_tdmrep_json():
    text = '[{"location": "/free/*", "tdm-reservation": 0}, {"location": "/*.png$", "tdm-reservation": "1"}, {"location": "/b", "tdm-reservation": 1}]'
    assert [read_tdmrep(text, p) for p in ("/free/7.png", "/7.png", "/7.pngx", "/b/c", "/c")] == [False, True, False, True, False]
    for junk in ("", "{", "<html>", "[1, null, {}]", "null", '{"location": 7}', "[" * 10**5, '[{"location": "a\\nAllow: /", "tdm-reservation": 1}]'):
        assert not read_tdmrep(junk, "/7.png")


# ---------------------------------------------------------------- which licence, and how it is known

IMAGE = {"@context": "https://schema.org", "@type": "ImageObject", "contentUrl": "7.png", "license": BY, "creator": {"@type": "Person", "name": "Ada"}}
RULE, INSIDE = f'<a rel="license" href="{ZERO}">zero</a>', '<i itemprop="license">CC BY-ND 4.0</i>'
HEAD = '<link rel="license" href="https://creativecommons.org/licenses/by-nc/4.0/">'


def test_the_nearest_statement_of_a_licence_wins():
    rules = with_rules(licence="CC BY-NC-SA 4.0")
    pages = [(HEAD, RULE + INSIDE, ld(IMAGE)), (HEAD, INSIDE, ld(IMAGE)), (HEAD, INSIDE, ""), (HEAD, "", ""), ("", "", "")]
    items = [only(head + figure(inside=inside) + script, rules) for head, inside, script in pages]
    assert [(i.licence, i.licence_from) for i in items] == [
        ("CC0-1.0", "a[rel~=license]@href"), ("CC-BY-4.0", "json-ld: license"), ("CC-BY-ND-4.0", "microdata: license"),
        ("CC-BY-NC-4.0", "page: link[rel~=license]@href"), ("CC-BY-NC-SA-4.0", "site rule"),
    ]  # fmt: skip


@pytest.mark.parametrize("value", [
    IMAGE, [IMAGE], {"@graph": [{"@type": "WebPage"}, IMAGE]}, {"@graph": [{"@graph": [[IMAGE]]}]}, {"@type": "Article", "image": [{"thumb": 1}, IMAGE]},
    {**IMAGE, "license": {"@type": "CreativeWork", "name": "some", "url": BY}}, {**IMAGE, "license": [BY, BY_SA]}, {**IMAGE, "license": {"@id": BY}},
    {**IMAGE, "@type": ["Photograph", "ImageObject"], "contentUrl": None, "url": "/deep/7.png"}, {**IMAGE, "contentUrl": "full.png", "thumbnailUrl": "7.png"},
    {**IMAGE, "creator": "Ada"}, {**IMAGE, "creator": [{"name": "Ada"}]}, {**IMAGE, "creator": None, "author": {"name": ["Ada"]}}, {**IMAGE, "creator": None, "creditText": "Ada"},
    {"@graph": [{**IMAGE, "creator": {"@id": "#ada"}, "license": {"@id": "#l"}}, {"@id": "#ada", "name": "Ada"}, {"@id": "#l", "url": BY}]},
    f"<!-- {json.dumps(IMAGE)} -->", f"{json.dumps(IMAGE)};", f"//<![CDATA[\n{json.dumps(IMAGE)}\n//]]>",
], ids=lambda v: str(v)[:60])  # fmt: skip
def test_json_ld_in_every_shape(value):
    item = only(ld("{broken") + ld(value) + ld("[1, null]") + figure())
    assert (item.licence, item.licence_from, item.author) == ("CC-BY-4.0", "json-ld: license", "Ada")


def test_json_ld_of_another_picture_says_nothing():
    item = only(figure("8.png") + ld(IMAGE))
    assert (item.licence, item.author) == ("", "")


def test_json_ld_keeps_credit_notice_and_where_to_ask():
    item = only(figure() + ld({**IMAGE, "license": None, "creator": None, "creditText": "Ada / Gallery", "copyrightNotice": "© 2026 Ada. All rights reserved.", "acquireLicensePage": "http://gallery.example/buy"}))
    assert (item.licence, item.licence_from, item.author) == ("all-rights-reserved", "json-ld: copyrightNotice", "Ada / Gallery")
    assert (item.meta["credit"], item.meta["licence_page"]) == ("Ada / Gallery", "http://gallery.example/buy")


def test_json_ld_of_the_page_counts_where_the_source_says_so():
    text = figure() + ld({"@type": "CollectionPage", "license": BY_SA, "mainEntity": {"@type": "Person", "name": "x"}})
    assert (only(text).licence, only(text).licence_from) == ("CC-BY-SA-4.0", "page: json-ld")
    assert only(text, with_rules(page_licence=[])).licence == ""
    assert only(figure() + ld({"@type": "WebPage", "isBasedOn": {"@type": "Book", "license": BY}})).licence == "", "a quoted work is not the page"


@pytest.mark.parametrize("head", ['<meta name="DC.Rights" content="CC BY 4.0">', f'<meta name="dcterms.license" content="{BY}">', f'<meta property="og:license" content="{BY}">', f'<a rel="license" href="{BY}">x</a>'])
def test_a_page_states_its_licence_in_its_head_or_foot(head):
    item = only(head + figure())
    assert item.licence == "CC-BY-4.0" and item.licence_from.startswith("page: ")


def test_what_one_picture_says_is_not_said_of_the_next():
    found = read_page(figure("1.png", RULE) + figure("2.png"), PAGE, WEB)
    assert [i.licence for i in found.items] == ["CC0-1.0", ""]


def test_microdata_around_the_picture():
    rules = with_rules(item={**WEB["item"], "select": "img", "image": "@src"})
    block = '<div itemscope itemtype="https://schema.org/{}"><img src="{}.png"><p><a itemprop="license" href="{}">l</a></p></div>'
    found = read_page("".join(block.format(*b) for b in (("ImageObject", 1, BY), ("ImageObject", 2, BY_SA), ("Article", 3, ZERO))), PAGE, rules)
    assert [(i.licence, i.licence_from) for i in found.items] == [("CC-BY-4.0", "microdata: license"), ("CC-BY-SA-4.0", "microdata: license"), ("", "")]


def test_the_author_by_rule_then_by_json_ld_then_by_the_site():
    rules = with_rules(author="the gallery")
    assert only(figure(inside='<i class="author">Zoe</i>') + ld(IMAGE), rules).author == "Zoe"
    assert (only(figure() + ld(IMAGE), rules).author, only(figure(), rules).author) == ("Ada", "the gallery")


@pytest.mark.parametrize("srcset, largest", [
    ("s.png 480w, l.png 1200w, m.png 800w", "l.png"), ("a.png, b.png 2x", "b.png"), ("a.png 1.5x,b.png 3x", "b.png"), ("one.png", "one.png"),
    ("a,b.png 10w, c.png 5w", "a,b.png"), (" a.png  1x ,\n b.png  2x ", "b.png"), ("a.png 1w, " * 500 + "z.png 9w", "z.png"),
])  # fmt: skip
def test_of_a_srcset_the_largest(srcset, largest):
    rules = with_rules(item={**WEB["item"], "image": ["source@srcset", "img@srcset", "img@src"]})
    assert only(f'<figure><img src="small.png" srcset="{srcset}"></figure>', rules).url.rpartition("/deep/")[2] == largest
    assert only(f'<figure><picture><source srcset="{srcset}"><img src="small.png"></picture></figure>', rules).url.rpartition("/deep/")[2] == largest


def test_a_placeholder_is_no_picture():
    rules = with_rules(item={**WEB["item"], "image": ["img@src", "img@data-lazy"]})
    assert only('<figure><img src="data:image/gif;base64,R0lGOD" data-lazy="7.png"></figure>', rules).url.endswith("/deep/7.png")


def test_no_caption_is_longer_than_the_longest_address():
    assert len(only(figure(inside="").replace("a seven", "x" * 10**6)).caption) == 4000


# ---------------------------------------------------------------- licences

SPDX = {
    "CC-BY-4.0": ["https://creativecommons.org/licenses/by/4.0/", "creativecommons.org/licenses/by/4.0", "//creativecommons.org/licenses/by/4.0/deed.de", "http://www.creativecommons.org/licenses/by/4.0/legalcode",
                  "https://creativecommons.org/licenses/by/4.0/?ref=chooser-v1", "CC BY 4.0", "cc-by-4.0", "CC_BY_4.0", "Creative Commons Attribution 4.0 International", "CC BY 4.0 International",
                  "Attribution 4.0 International (CC BY 4.0)", "Creative Commons Attribution 4.0 International License.", "This work is licensed under a Creative Commons Attribution 4.0 International License",
                  "Licensed under CC BY 4.0", "see https://creativecommons.org/licenses/by/4.0/."],
    "CC-BY-2.0": ["by 2.0", "CC BY 2.0 Generic"], "CC-BY-NC-SA-2.0": ["by-nc-sa 2.0", "Attribution-NonCommercial-ShareAlike 2.0 Generic"],
    "CC-BY-NC-ND-1.0": ["https://creativecommons.org/licenses/by-nd-nc/1.0/"], "CC-BY-ND-3.0": ["Creative Commons Attribution-NoDerivs 3.0 Unported", "CC Attribution-No Derivatives 3.0"],
    "CC-BY-SA-3.0": ["Creative Commons Attribution-Share Alike 3.0", "CC BY-SA 3.0 Unported", "cc by sa 3.0"], "CC-BY-SA-3.0-DE": ["https://creativecommons.org/licenses/by-sa/3.0/de/", "CC BY-SA 3.0 DE",
                  "http://creativecommons.org/licenses/by-sa/3.0/de/deed.en", "cc-by-sa-3.0-de"], "CC-BY-SA-2.1-JP": ["https://creativecommons.org/licenses/by-sa/2.1/jp/"],
    "CC-BY-3.0-IGO": ["https://creativecommons.org/licenses/by/3.0/igo/"], "CC-SA-1.0": ["CC SA 1.0"],
    "CC0-1.0": ["CC0", "cc0 1.0", "CC0 1.0 Universal", "CC0-1.0", "Creative Commons Zero v1.0 Universal", "Creative Commons Zero", "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication",
                "https://creativecommons.org/publicdomain/zero/1.0/deed.fr"],
    "CC-PDM-1.0": ["Public Domain", "Public Domain Mark 1.0", "pdm 1.0", "pd", "https://creativecommons.org/publicdomain/mark/1.0/", "CC-PDM-1.0"],
    "MIT": ["MIT", "MIT License", "The MIT Licence", "https://opensource.org/licenses/MIT"], "Apache-2.0": ["Apache-2.0", "Apache License, Version 2.0", "Apache 2.0", "http://www.apache.org/licenses/LICENSE-2.0"],
    "GPL-3.0-only": ["GPLv3", "GNU General Public License v3.0", "https://www.gnu.org/licenses/gpl-3.0.html"], "GPL-2.0-or-later": ["GPL-2.0+", "GNU GPL v2 or later", "GPL-2.0-or-later"],
    "GFDL-1.2-only": ["GFDL 1.2", "GNU Free Documentation License 1.2"], "GFDL-1.3-or-later": ["GFDL 1.3 or later", "GFDL-1.3-or-later"], "AGPL-3.0-only": ["AGPL-3.0", "https://www.gnu.org/licenses/agpl-3.0.en.html"],
    "Unsplash License": ["Unsplash License", "https://unsplash.com/license"], "Pexels License": ["https://www.pexels.com/license/", "Pexels Licence"], "Pixabay License": ["https://pixabay.com/service/license/", "Pixabay Content License"],
    "all-rights-reserved": ["All rights reserved", "all rights reserved.", "© 2024 Ada Ltd. All Rights Reserved"], "": ["", "  "],
}  # fmt: skip


@pytest.mark.parametrize("said, name", [(said, name) for name, all_said in SPDX.items() for said in all_said])
def test_a_licence_by_whatever_name(said, name):
    assert spdx(said) == name


@pytest.mark.parametrize("said", [
    "Mitchell", "Mitchell, all rights reserved by Mit", "https://creativecommons.org/licenses/by-nc-nd/2.0/jp/", "https://creativecommons.org/licenses/by/9.0/", "http://rightsstatements.org/vocab/InC/1.0/",
    "CC BY", "Not CC BY 4.0", "CC BY 4.0 or ask us", "https://creativecommons.org/licenses/sampling+/1.0/", "GFDL", "CC BY-SA 3.0,2.5,2.0,1.0", "by the river 2.0", "CC BY-ND-SA 4.0", "CC BY 3.0 FR", "permission 4.0", "Creative Commons Attribution 3.0 Germany",
    "https://evil.example/creativecommons", "Creative Commons", "free", "not https://creativecommons.org/licenses/by/4.0/", "https://creativecommons.org/licenses/by/4.0/dex/x",
])  # fmt: skip
def test_what_is_no_known_licence_stays_as_it_was_said(said):
    assert spdx(said) == said[:60]


def test_two_addresses_leave_a_licence_open():
    assert spdx(f"{BY} or {BY_SA}").startswith("https://creativecommons.org/licenses/by/4.0/ or")
    assert spdx("x" * 100) == "x" * 60


def test_every_creative_commons_id_is_one_that_spdx_lists():
    listed = {v["id"] for v in pytest.importorskip("packaging.licenses._spdx").LICENSES.values()}
    for code in ("by", "by-nc", "by-nd", "by-sa", "by-nc-nd", "by-nc-sa", "by-nd-nc", "sa", "nc", "nd-sa"):
        for version in ("1.0", "2.0", "2.1", "2.5", "3.0", "4.0"):
            for place in ("", *"at au de fr igo jp nl uk us it".split()):
                name = spdx(f"https://creativecommons.org/licenses/{code}/{version}/{place}")
                assert name in listed or name.startswith("https://"), name
    ours = {name for name in SPDX if name} - {"all-rights-reserved", "Unsplash License", "Pexels License", "Pixabay License"}
    assert ours <= listed
    cc = {n for n in listed if n.startswith("CC-BY")}
    assert {spdx(n) for n in cc} == cc == {spdx(n.lower()) for n in cc}, "an id means itself"


# ---------------------------------------------------------------- sitemaps

MAP = "http://gallery.example/maps/sitemap.xml"
URLSET = '<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9" xmlns:image="http://www.google.com/schemas/sitemap-image/1.1">{}</urlset>'


def entry(path, changed="", inside=""):
    return f"<url><loc> http://gallery.example{path} </loc>{f'<lastmod>{changed}</lastmod>' if changed else ''}{inside}</url>"


def sitemap(text, packed=False, **rules):
    body = text if isinstance(text, bytes) else text.encode()
    return read_sitemap(gzip.compress(body) if packed else body, MAP, with_rules(sitemap={**WEB["sitemap"], **rules}))


@pytest.mark.parametrize("packed", [False, True])
def test_a_sitemap_names_pages(packed):
    found = sitemap(URLSET.format(entry("/1") + entry("/2?b=1&amp;a=2") + entry("/login") + entry("/1")), packed)
    assert found.links == [("http://gallery.example/1", "page"), ("http://gallery.example/2?a=2&b=1", "page")] and found.items == []


def test_a_sitemap_index_names_sitemaps():
    found = sitemap("\n <sitemapindex><sitemap><loc>http://gallery.example/a.xml.gz</loc></sitemap><sitemap><loc>/old.xml</loc><lastmod>2020</lastmod></sitemap></sitemapindex>", newer_than="2026-05-01")
    assert found.links == [("http://gallery.example/a.xml.gz", "sitemap")]


def test_a_text_sitemap_is_a_page_a_line():
    assert sitemap("\ufeffhttp://gallery.example/1\r\n\r\nhttp://gallery.example/login\nnonsense\nhttp://gallery.example/2\n").links == [("http://gallery.example/1", "page"), ("http://gallery.example/2", "page")]
    with pytest.raises(BadInput, match="no sitemap"):
        sitemap("nothing here")


def test_what_a_sitemap_leaves_out_by_its_rules():
    text = URLSET.format(entry("/p/1", "2026-05-02T10:00:00+02:00") + entry("/p/2", "2026-04-30") + entry("/p/3") + entry("/q/4", "2026-06") + entry("/p/5", "2025"))
    assert [u.rpartition("example")[2] for u, _ in sitemap(text, follow="/p/", newer_than="2026-05-01").links] == ["/p/1", "/p/3"]


def test_pictures_of_a_sitemap():
    picture = "<image:image><image:loc>/7.png</image:loc><image:caption>A seven</image:caption>{}</image:image>"
    text = URLSET.format(entry("/1", inside=picture.format(f"<image:license>{BY}</image:license>") + picture.replace("7", "8").format("")))
    (item,) = sitemap(text).items
    assert (item.url, item.page_url, item.caption, item.licence, item.licence_from) == ("http://gallery.example/7.png", "http://gallery.example/1", "A seven", "CC-BY-4.0", "sitemap: image:license")
    assert [i.licence for i in sitemap(text, unlicensed=True).items] == ["CC-BY-4.0", ""]


def test_a_packed_sitemap_that_unpacks_to_too_much_is_cut():
    bomb = gzip.compress(b"<urlset>" + b" " * 10**8)
    tracemalloc.start()
    with pytest.raises(TooLarge, match="unpacks"):
        read_sitemap(bomb, MAP, WEB, most=10**6)
    assert tracemalloc.get_traced_memory()[1] < 5 * 10**6
    tracemalloc.stop()


@pytest.mark.parametrize("body, error", [
    (b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><urlset>&b;</urlset>', BadInput), (b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><urlset>&a;</urlset>', BadInput),
    (b"<urlset><url><loc>http://h.example/1</loc>", BadInput), (b'<?xml version="1.0" encoding="nonsense"?><urlset/>', BadInput), (gzip.compress(b"<urlset/>" * 100)[:-20], BadInput), (b"\x1f\x8bnothing", BadInput),
    (b"<a>" * 10**5, TooLarge), (b"<urlset><url>" + b"<x/>" * 10**5 + b"</url></urlset>", TooLarge),
], ids=["entities", "external entity", "cut short", "unknown encoding", "packed and cut short", "not packed", "nested without end", "an element without end"])  # fmt: skip
def test_a_hostile_sitemap_is_an_error_of_ours(body, error):
    with pytest.raises(error):
        read_sitemap(body, MAP, WEB)


@pytest.mark.parametrize("element, error", [(b"<a/>", TooLarge), (b"<url/>", None)], ids=["of nothing", "of pages"])
def test_a_sitemap_of_many_empty_elements_takes_no_memory(element, error):
    body = b"<urlset>" + element * 10**5 + b"</urlset>"
    tracemalloc.start()
    if error:
        with pytest.raises(error, match="does not end"):
            read_sitemap(body, MAP, WEB)
    else:
        assert read_sitemap(body, MAP, WEB) == Found()
    assert tracemalloc.get_traced_memory()[1] < len(body) + 10**7
    tracemalloc.stop()


# ---------------------------------------------------------------- feeds

FEED = "http://gallery.example/feed"
NS = 'xmlns:media="http://search.yahoo.com/mrss/" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:creativeCommons="http://backend.userland.com/creativeCommonsRssModule" xmlns:cc="http://creativecommons.org/ns#" xmlns:atom="http://www.w3.org/2005/Atom" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
ENTRY = "<title>A seven</title><link>/seven</link><dc:creator>Ada</dc:creator>{}"


def feed(text, **rules):
    return read_feed(text.encode() if isinstance(text, str) else text, FEED, with_rules(**rules))


def told(item):
    return item.url.removeprefix("http://gallery.example"), item.page_url.removeprefix("http://gallery.example"), item.caption, item.author, item.licence


def rss(inside, around=""):
    return f"<rss version='2.0' {NS}><channel><title>Gallery</title>{around}<item>{ENTRY.format(inside)}</item></channel></rss>"


SEVEN = ("/7.png", "/seven", "A seven", "Ada", "CC-BY-4.0")
LICENCE = f"<creativeCommons:license>{BY}</creativeCommons:license>"


@pytest.mark.parametrize("text", [
    rss(f'<enclosure url="/7.png" type="image/png" length="7"/>{LICENCE}'),
    rss(f'<media:content url="/7.png" medium="image"/><media:license type="text/html" href="{BY}">by</media:license>'),
    rss('<media:content url="/7.png"/><dc:rights>CC BY 4.0</dc:rights>'), rss(f'<media:thumbnail url="/7.png"/>{LICENCE}'), rss('<enclosure url="/7.png" type="image/png"/>', LICENCE),
    rss('<enclosure url="/7.png" type="image/png"/><enclosure url="/7.mp3" type="audio/mpeg"/>', "<copyright>CC BY 4.0</copyright>"),
    rss(f'<media:group><media:content url="/s.png" type="image/png" width="10" height="10"/><media:content url="/7.png" type="image/png" width="90" height="90"/>{LICENCE}</media:group><media:thumbnail url="/t.png"/>'),
    f'<rdf:RDF {NS} xmlns="http://purl.org/rss/1.0/"><channel><title>G</title></channel><item rdf:about="x">{ENTRY.format("")}<enclosure url="/7.png" type="image/png"/><cc:license rdf:resource="{BY}"/></item></rdf:RDF>',
    f'<feed xmlns="http://www.w3.org/2005/Atom"><entry><title>A seven</title><author><name>Ada</name></author><link rel="alternate" href="/seven"/><link rel="enclosure" type="image/png" href="/7.png"/><link rel="license" href="{BY}"/></entry></feed>',
    f'<feed xmlns="http://www.w3.org/2005/Atom"><link rel="license" href="{BY}"/><entry><title>A seven</title><author><name>Ada</name></author><link href="/seven"/><link rel="enclosure" type="image/png" href="/7.png"/><rights></rights></entry></feed>',
    rss('<enclosure url="/7.png" type="image/png"/>' + LICENCE).replace("<link>/seven</link>", "<guid>http://gallery.example/seven</guid>"),
], ids=["rss enclosure", "media content", "rights", "thumbnail", "licence of the channel", "copyright of the channel", "group", "rdf", "atom", "licence of the atom feed", "guid"])  # fmt: skip
def test_a_feed_names_pages_and_pictures(text):
    found = feed(text)
    assert found.links == [("http://gallery.example/seven", "page")] and [told(i) for i in found.items] == [SEVEN]
    assert found.items[0].licence_from.startswith("feed: ")


def test_a_json_feed():
    value = {"version": "https://jsonfeed.org/version/1.1", "next_url": "/feed?p=2", "authors": [{"name": "Ada"}], "items": [
        {"id": "1", "url": "/seven", "title": "A seven", "image": "/7.png", "attachments": [{"url": "/7.png", "mime_type": "image/png"}, {"url": "/7.mp3", "mime_type": "audio/mpeg"}]}, {"id": 2}, 7]}  # fmt: skip
    found = feed(json.dumps(value), licence="CC BY 4.0")
    assert found.links == [("http://gallery.example/feed?p=2", "feed"), ("http://gallery.example/seven", "page")] and [told(i) for i in found.items] == [SEVEN]


def test_a_feed_goes_on():
    assert ("http://gallery.example/feed?p=2", "feed") in feed(rss("", '<atom:link rel="next" href="?p=2"/><atom:link rel="self" href="?p=1"/>')).links


def test_pictures_of_a_feed_without_a_licence_are_left_to_their_page():
    text = rss('<enclosure url="/7.png" type="image/png"/>')
    assert feed(text).items == [] and [i.licence for i in feed(text, feed={"unlicensed": True}).items] == [""]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"<html><body>no</body></html>", b"<rss><item>", b'{"items": 7}'[:-2], b"\x00\xff" * 99, URLSET.encode()])
def test_what_is_no_feed_is_an_error_of_ours(body):
    with pytest.raises(BadInput):
        feed(body)


# ---------------------------------------------------------------- lists

TABLE = "url,caption,author,licence,label\nhttp://h.example/7.png,\"A seven, crossed\",Ada,CC BY 4.0,7\n\n/8.png,,,,8\n"


def rows(body, url="http://h.example/all.csv", **columns):
    return read_list(body if isinstance(body, bytes) else body.encode(), url, with_rules(list={**WEB["list"], **columns}))


@pytest.mark.parametrize("text", [TABLE, "\ufeff" + TABLE, TABLE.replace("\n", "\r\n")])
def test_a_table_of_pictures(text):
    one, two = rows(text, meta=["label"]).items
    assert (one.url, one.caption, one.author, one.licence, one.licence_from, one.meta["label"]) == ("http://h.example/7.png", "A seven, crossed", "Ada", "CC-BY-4.0", "list: licence", "7")
    assert (two.url, two.licence, two.meta["label"]) == ("http://h.example/8.png", "", "8")


def test_a_table_with_tabs_and_other_names():
    columns = {**WEB["list"], "url": "bild", "author": "von", "caption": None}
    (item,) = read_list(b"bild\tvon\nhttp://h.example/7.png\tAda\n", "", with_rules(list=columns)).items
    assert (item.url, item.author, item.caption) == ("http://h.example/7.png", "Ada", "")


def test_a_list_of_json_lines():
    found = rows('{"url": "http://h.example/7.png", "licence": "CC0"}\n{"url": "/8.png"}\n')
    assert [(i.url, i.licence) for i in found.items] == [("http://h.example/7.png", "CC0-1.0"), ("http://h.example/8.png", "")]


def test_a_list_of_pages_is_links():
    assert rows("http://h.example/1\n# later\n\nhttp://h.example/2\n", kind="page").links == [("http://h.example/1", "page"), ("http://h.example/2", "page")]
    assert [i.url for i in rows("http://h.example/1.png\n").items] == ["http://h.example/1.png"]


def test_a_parquet_list():
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    out = io.BytesIO()
    pq.write_table(pa.table({"url": ["http://h.example/7.png", "http://h.example/8.png"], "licence": ["CC0", None], "label": [7, 8], "other": [[1], [2]]}), out)
    found = rows(out.getvalue(), meta=["label"])
    assert [(i.licence, i.meta["label"]) for i in found.items] == [("CC0-1.0", 7), ("", 8)]
    for damaged in (out.getvalue()[:-9], out.getvalue()[:4] + bytes(100) + out.getvalue()[104:], b"PAR1"):
        with pytest.raises(BadInput):
            rows(damaged)


@pytest.mark.parametrize("text, message", [
    ("url,caption\nhttp://h.example/1.png,x\nmailto:ada,x\n", "Row 2 .*mailto:ada"), ("url,caption\n,x\n", "Row 1 "), ("url\nhttp://h.example/1.png,too,many\n", "Row 1 .*more cells"), ("address,caption\nhttp://h.example/1.png,x\n", "no column url"),
    ("http://h.example/1\nnonsense\n", "Row 2 "), ("url,caption\nhttp://h.example/1.png," + "x" * 200_000 + "\n", "Row 1 "),
])  # fmt: skip
def test_a_mistake_in_a_list_is_named(text, message):
    csv.field_size_limit(131_072)  # Python's own limit, which `formats` raises for the whole process
    with pytest.raises(BadInput, match=message):
        rows(text, url="")


# ---------------------------------------------------------------- APIs


def test_openverse():
    rules = source("openverse", "source.query='handwritten digit'")
    start = canonical(rules["apis"][0])
    assert start == "https://api.openverse.org/v1/images/?license=by%2Cby-sa%2Ccc0%2Cpdm&page_size=20&q=handwritten+digit"
    found = read_api((DATA / "openverse.json").read_bytes(), start, rules)
    assert found.links == [(canonical(start + "&page=2"), "api")]
    one, two, three = found.items
    assert (one.url, one.page_url) == ("https://live.staticflickr.com/65535/49514824541_35d1b4f8db_b.jpg", "https://www.flickr.com/photos/71925535@N03/49514824541")
    assert (one.caption, one.author, one.licence, one.licence_from, one.meta["provider"]) == ("Seven & eight", "Jane Doe", "CC-BY-2.0", "api: license_url", "flickr")
    assert (two.caption, two.author, two.licence, two.licence_from) == ("", "", "CC0-1.0", "api: license license_version") and three.licence == "CC-BY-SA-3.0-DE"
    assert read_api((DATA / "openverse.json").read_bytes(), start + "&page=3", rules).links == [], "the last of three"


def test_wikimedia_commons():
    rules = source("commons", "source.query=seven")
    start = canonical(rules["apis"][0])
    found = read_api((DATA / "commons.json").read_bytes(), start, rules)
    ((following, kind),) = found.links
    assert kind == "api" and "gsroffset=50" in following and "continue=gsroffset%7C%7C" in following and "gsrsearch=filetype%3Abitmap+seven" in following
    one, two = found.items
    assert (one.url.rpartition("/")[2], one.page_url) == ("Handwritten_seven.jpg", "https://commons.wikimedia.org/wiki/File:Handwritten_seven.jpg")
    assert (one.caption, one.author, one.licence) == ("A seven , crossed & slanted", "Ada & Ben", "CC-BY-SA-4.0")
    assert (two.caption, two.author, two.licence, two.licence_from) == ("File:Old ledger.png", "Own work", "CC-PDM-1.0", "api: imageinfo.0.extmetadata.LicenseShortName.value")


API = "https://api.example/pics?q=7"
PATHS = {**WEB["api"], "records": "data.list", "image": ["full.url", "url"], "licence": "rights"}


def api(answer, url=API, **paths):
    return read_api(answer if isinstance(answer, bytes) else json.dumps(answer).encode(), url, with_rules(api={**PATHS, **paths}))


def test_paging_by_address_token_or_number():
    answer = {"data": {"list": [{"url": "/7.png", "rights": "CC0"}]}, "next": "/pics?p=2", "token": "abc", "n": 2}
    assert api(answer, next="next").links == [("https://api.example/pics?p=2", "api")]
    assert api(answer, next="token", next_parameter="after").links == [("https://api.example/pics?after=abc&q=7", "api")]
    assert api(answer, page="p", page_count="n").links == [("https://api.example/pics?p=2&q=7", "api")]
    assert api(answer, API + "&p=2", page="p", page_count="n").links == [] and api({"data": {"list": []}}, page="p").links == []
    assert api({**answer, "next": None}, next="next").links == [] and api(answer).links == []
    assert api(answer, API + "&p=x", page="p").links == []


def test_records_of_an_api_in_other_shapes():
    found = api({"data": {"list": {"a": {"url": "/1.png"}, "b": {"full": {"url": "/2.png"}, "url": "/s.png"}, "c": {"url": None}, "d": 7}}}, page_url="page", meta=["x"])
    assert [(i.url, i.page_url) for i in found.items] == [("https://api.example/1.png", API), ("https://api.example/2.png", API)]
    assert [i.url for i in api([{"url": "/1.png?a=1&copy=2"}], records=None).items] == ["https://api.example/1.png?a=1&copy=2"], "an address is no markup"


@pytest.mark.parametrize("answer", [b"", b"<html>", {"error": {"info": "rate limit"}}, [], 7, None, {"data": {"list": "x"}}, b"[" * 10**5])
def test_an_answer_without_records_is_an_error_of_ours(answer):
    with pytest.raises(BadInput):
        api(answer)


# ---------------------------------------------------------------- folders


@pytest.fixture
def folder(tmp_path):
    for name in ("b/2.png", "a/1.jpg", "a/.hidden.png", "3.PNG", "notes.txt", ".git/4.png"):
        (tmp_path / "pics" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pics" / name).write_bytes(b"not looked at here")
    return tmp_path / "pics"


def test_a_folder_gives_its_pictures_in_order(folder):
    found = list(read_folder(folder, with_rules(licence="CC0", author="Zoe")))
    assert [(i.url, i.meta.get("folder"), i.licence, i.licence_from, i.author) for i, _ in found] == [
        ("3.PNG", None, "CC0-1.0", "site rule", "Zoe"), ("a/1.jpg", "a", "CC0-1.0", "site rule", "Zoe"), ("b/2.png", "b", "CC0-1.0", "site rule", "Zoe")]  # fmt: skip
    assert all(p.is_file() and p == folder / i.url for i, p in found)


@pytest.mark.parametrize("name, text", [
    ("metadata.csv", "file_name,caption,author,license,digit\nb/2.png,A two,Ada,CC BY 4.0,2\n"), ("b/metadata.csv", "file_name,caption,author,licence,digit\n2.png,A two,Ada,CC BY 4.0,2\n"),
    ("metadata.jsonl", '{"file_name": "b/2.png", "text": "A two", "author": "Ada", "licence": "CC BY 4.0", "digit": "2"}\n'), ("b/2.png.json", '{"caption": "A  two", "author": "Ada", "licence": "CC BY 4.0", "digit": "2"}'),
])  # fmt: skip
def test_what_is_known_of_a_picture_stands_beside_it(folder, name, text):
    (folder / name).write_text(text)
    item = next(i for i, _ in read_folder(folder, WEB) if i.url == "b/2.png")
    assert (item.caption, item.author, item.licence, item.meta["digit"], item.meta["folder"]) == ("A two", "Ada", "CC-BY-4.0", "2", "b")
    assert item.licence_from == f"{name.rpartition('/')[2]}: licence"


def test_a_link_that_leads_out_of_the_folder_is_refused(folder, tmp_path):
    (folder / "a" / "same.png").symlink_to(folder / "b" / "2.png")
    assert len(list(read_folder(folder, WEB))) == 4
    for target, name in ((tmp_path / "outside.png", "5.png"), (Path("/etc"), "etc")):
        (folder / name).symlink_to(target)
        with pytest.raises(Refused, match=name):
            next(read_folder(folder, WEB))
        (folder / name).unlink()
    (folder / "b/2.png.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(Refused, match="2.png.json"):
        next(read_folder(folder, WEB))


@pytest.mark.parametrize("name, text, message", [
    ("metadata.csv", "file_name,author\nnot_there.png,Ada\n", "Row 1 of metadata.csv .*not_there"), ("metadata.csv", "name,author\nx,Ada\n", "Row 1 .*file_name"),
    ("metadata.jsonl", '{"file_name": "b/2.png"}\n{broken\n', "Row 2 of metadata.jsonl"), ("b/2.png.json", "{", "2.png.json"), ("b/2.png.json", "[]", "2.png.json"), ("metadata.csv", b"\xff\xfe", "metadata.csv"),
])  # fmt: skip
def test_a_mistake_beside_a_picture_is_named(folder, name, text, message):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadInput, match=message):
        list(read_folder(folder, WEB))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(BadInput, match="no such folder"):
        list(read_folder(tmp_path / "gone", WEB))


# ---------------------------------------------------------------- rules


@pytest.mark.parametrize("key, changed", [
    ("follow", {"follow": ["a[[href]"]}), ("page_licence", {"page_licence": ["::("]}), ("item.caption", {"item": {**WEB["item"], "caption": [">>"]}}), ("deny", {"deny": ["(open"]}), ("sitemap.follow", {"sitemap": {**WEB["sitemap"], "follow": "["}}),
    ("sitemap.newer_than", {"sitemap": {**WEB["sitemap"], "newer_than": "May"}}), ("list.kind", {"list": {**WEB["list"], "kind": "video"}}), ("list.url", {"list": {**WEB["list"], "url": 7}}), ("api.image", {"api": {**WEB["api"], "image": ["a..b"]}}),
    ("reader", {"reader": {"target": "x"}}),
])  # fmt: skip
def test_a_rule_that_cannot_be_read_is_named(key, changed):
    with pytest.raises(BadConfig, match=re.escape(f"source.{key}")):
        check_rules(with_rules(**changed))


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "source").glob("*.yaml")))
def test_every_source_has_the_same_keys_and_rules_that_can_be_read(name):
    rules = source(name)
    check_rules(rules)
    assert rules.keys() == WEB.keys()
    assert all(rules[k].keys() == WEB[k].keys() for k in ("item", "sitemap", "feed", "list", "api"))


def test_a_rule_takes_the_first_that_finds_something():
    from selectolax.lexbor import LexborHTMLParser

    node = LexborHTMLParser("<div><b></b><i title=' x  y '>z</i></div>")
    assert pick(node, ["b", "i@title", "i"]) == ("x y", "i@title") and pick(node, "u") == ("", "") and pick(node, None) == ("", "")


# ---------------------------------------------------------------- junk


def junk():
    """Bytes of every kind: noise, true documents cut, spliced and with bytes exchanged."""
    rng = random.Random(7)
    true = [rss(LICENCE).encode(), URLSET.format(entry("/1")).encode(), TABLE.encode(), (DATA / "commons.json").read_bytes(), (HEAD + figure(inside=RULE + INSIDE) + ld(IMAGE)).encode(), b'[{"url": "/1"}]', gzip.compress(b"<urlset/>")]
    for n in range(150):
        yield rng.randbytes(rng.randrange(200))
        a, b = rng.choice(true), rng.choice(true)
        yield a[: rng.randrange(len(a))] + b[rng.randrange(len(b)) :]
        c = bytearray(a)
        for _ in range(5):
            c[rng.randrange(len(c))] = rng.randrange(256)
        yield bytes(c)
    yield from (b"", b"\x00" * 1000, b"<" * 10**4, b"<div>" * 10**4, b"[" * 10**5, b'{"a":' * 10**4, b"\xff\xfe<\x00", b"PAR1PAR1", "\ud800".encode("utf8", "surrogatepass"))


def test_junk_raises_only_errors_of_ours():
    rules, n_errors = with_rules(api=PATHS), 0
    for body in junk():
        assert isinstance(read_page(body, PAGE, rules), Found)
        assert isinstance(read_page(body.decode("latin1"), PAGE, rules, {"X-Robots-Tag": body.decode("latin1")}), Found)
        read_ai_txt(body.decode("latin1"), "/7.png"), read_tdmrep(body.decode("latin1"), "/7.png"), spdx(body.decode("latin1"))
        for reader in (read_sitemap, read_feed, read_list, read_api):
            try:
                assert isinstance(reader(body, PAGE, rules), Found)
            except FsmlError:
                n_errors += 1
    assert n_errors > 500


def test_text_with_lone_surrogates_is_read():
    assert only(figure().replace("a seven", "a \ud800 seven")).caption == "a ? seven"


def test_what_no_database_takes_is_taken_out():
    """NUL, half of a character, NaN and what is no JSON at all would end the transaction of a whole crawl."""
    (item,) = api(b'{"data": {"list": [{"url": "/7.png", "rights": "a\\u0000b", "by": "A\\ud800", "x": [NaN, "\\u0000", "\\ud800"]}]}}', author="by", meta=["x"]).items
    assert (item.licence, item.author, item.meta["x"]) == ("a\ufffdb", "A\ufffd", [None, "\ufffd", "\ufffd"])
    pa, pq, out = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet"), io.BytesIO()
    pq.write_table(pa.table({"url": ["http://h.example/7.png"], "at": [datetime.date(2026, 5, 1)], "raw": [b"\xff"], "nan": [float("nan")]}), out)
    json.dumps(rows(out.getvalue(), meta=["at", "raw", "nan"]).items[0].meta, allow_nan=False)


@pytest.mark.parametrize("text", [
    f'<figure><img srcset="{"a" * 10**5} b c"></figure>', figure(inside=f'<a rel="license" href="{"." * 10**5}x">l</a>'), "<div>" * 3000 + figure(inside="<i itemprop=x>") * 300, ld("[" * 500 + json.dumps(IMAGE)) + figure(),
    ld([{"@id": f"#{i}", "@type": "ImageObject", "url": "7.png", "creator": [{"@id": f"#{k}"} for k in range(20)]} for i in range(300)]) + figure(), '<a href="' + "a-" * 10**5 + '">',
], ids=["a srcset without end", "a licence of dots", "nested deep", "brackets", "references in a circle", "a link without end"])  # fmt: skip
def test_no_page_keeps_the_reader_busy(text):
    start = time.process_time()
    assert read_page(text, PAGE, WEB).nofollow is False
    assert time.process_time() - start < 2
