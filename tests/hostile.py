"""A web site that means harm, with good pages in between: what a crawler must survive, and what it must say of it.

Raw sockets, because an HTTP library is too polite to send most of this. Each `Bad` names an address and the reason that
a crawl has to record for it. `Hostile().good` are the pictures that have to be kept whatever the rest of the site does.
"""
import asyncio
import contextlib
import gzip
import hashlib
import io
import random
import struct
import threading
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache

CC_BY = "https://creativecommons.org/licenses/by/4.0/"
MB = 2**20
END, ENDLESS, SLOW, LOST, BROKEN = "does not end|too large", "does not end|too large|too long|no answer", "too long|longer rest", "no answer|not there|too long", "decoded|damaged|no picture|empty"
AWAY = "not public|another site|nowhere"


@dataclass(frozen=True)
class Bad:
    """An address that must not be kept."""

    name: str
    path: str
    why: str  # pattern of the reason that is recorded
    kind: str = "page"  # page or picture
    site: str = "main"  # which of the servers
    fine: bool = False  # may also be kept or read: what counts is that the crawl survives it


# ---------------------------------------------------------------- what is sent


@lru_cache
def picture(seed: int) -> tuple[bytes, str]:  # bytes, type
    """A small picture like no other."""
    from PIL import Image

    out, kind = io.BytesIO(), "PNG" if seed % 2 else "JPEG"
    Image.frombytes("RGB", (40, 40), random.Random(seed).randbytes(4800)).resize((80, 80)).save(out, kind)
    return out.getvalue(), f"image/{kind.lower()}"


def figure(src: str, caption: str = "a good one") -> str:
    return f'<figure><img src="{src}"><figcaption>{caption}</figcaption><a rel="license" href="{CC_BY}">CC BY</a></figure>'


@lru_cache
def packed(data_mb: int, wbits: int = 31, head: bytes = b"") -> bytes:
    """So many zeros behind a head, as small as they get."""
    c = zlib.compressobj(1, zlib.DEFLATED, wbits)
    return c.compress(head) + b"".join(c.compress(bytes(MB)) for _ in range(data_mb)) + c.flush()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@lru_cache
def png(width: int, height: int, depth: int = 1, colour: int = 0, extra: bytes = b"") -> bytes:
    """A PNG of one colour, whole and right, whose file is small."""
    line = 1 + (width * depth * {0: 1, 2: 3, 6: 4}[colour] + 7) // 8
    c, left, data = zlib.compressobj(1), line * height, b""
    while left > 0:
        data += c.compress(bytes(min(left, MB)))
        left -= MB
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)) + extra + chunk(b"IDAT", data + c.flush()) + chunk(b"IEND", b"")


@lru_cache
def gif(n_frames: int) -> bytes:
    """An animation whose frames are all the same."""
    from PIL import Image

    out = io.BytesIO()
    Image.frombytes("L", (16, 16), random.Random(0).randbytes(256)).save(out, "GIF")
    body = out.getvalue()
    start = 13 + 3 * 2 ** ((body[10] & 7) + 1) * (body[10] >> 7)  # the frames begin behind the head and its colours
    return body[:start] + body[start:-1] * n_frames + b";"


ENTITIES = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a0 "lol">' + "".join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 10}">' for k in range(1, 12)) + '<!ENTITY f SYSTEM "file:///etc/passwd">]>'
SVG = ENTITIES + '<svg xmlns="http://www.w3.org/2000/svg" width="80" height="80"><text>&a11;&f;</text></svg>'


# ---------------------------------------------------------------- the server


class Ask:
    """One request, and the raw end to answer it."""

    def __init__(self, hostile: "Hostile", site: str, target: str, writer: asyncio.StreamWriter):
        self.hostile, self.site, self.writer = hostile, site, writer
        self.path, _, self.query = target.partition("?")

    def head(self, status: int = 200, kind: str = "text/html", **headers: object) -> bytes:
        lines = {"Content-Type": kind, **{k.replace("_", "-"): v for k, v in headers.items()}}
        return f"HTTP/1.1 {status} X\r\n{''.join(f'{k}: {v}{chr(13)}{chr(10)}' for k, v in lines.items())}\r\n".encode("latin-1")

    async def raw(self, *data: bytes) -> None:
        for piece in data:
            self.writer.write(piece)
            await self.writer.drain()

    async def say(self, body: bytes | str, status: int = 200, kind: str = "text/html", **headers: object) -> bool:
        body = body.encode() if isinstance(body, str) else body
        await self.raw(self.head(status, kind, **{"Content_Length": len(body), **headers}) + body)
        return True  # the connection may be used again

    async def forever(self, piece: bytes, pause: float = 0, most: int = 2**40) -> None:
        """Send a piece again and again until the other end has had enough."""
        sent = 0
        while sent < most:
            await self.raw(piece)
            sent += len(piece)
            if pause:
                await asyncio.sleep(pause)


Handler = Callable[[Ask], Awaitable[object]]


class Hostile:
    """The servers, their log, and what a crawl of them has to end with; a context manager."""

    SITES = ("main", "slow", "busy", "absurd", "robots503", "robotshang", "robotsdrip", "robotsreset", "robotsbig", "robotscircle", "robotsbomb", "secret")

    def __init__(self, n_good: int = 12):
        self.n_good = n_good
        self.asked: list[tuple[str, str]] = []  # site, path with query
        self.routes: dict[tuple[str, str], Handler] = {}
        self.bad: list[Bad] = []
        self.good: dict[str, str] = {}  # address -> SHA-256
        self.ports: dict[str, int] = {}
        self.first: dict[str, int] = {}  # how often a path was asked that gets better

    def url(self, site: str, path: str = "") -> str:
        return f"http://127.0.0.1:{self.ports[site]}{path}"

    @property
    def hosts(self) -> list[str]:
        """Every server whose pages may be followed."""
        return [f"127.0.0.1:{port}" for site, port in self.ports.items() if site != "secret"]

    def __enter__(self) -> "Hostile":
        self.loop, up = asyncio.new_event_loop(), threading.Event()
        self.thread = threading.Thread(target=self._run, args=(up,), daemon=True)
        self.thread.start()
        up.wait()
        self._plan()
        return self

    def __exit__(self, *args: object) -> None:
        self.loop.call_soon_threadsafe(self.over.set)
        self.thread.join(10)

    def _run(self, up: threading.Event) -> None:
        async def main() -> None:
            self.over, servers = asyncio.Event(), []
            for site in self.SITES:
                servers.append(await asyncio.start_server(lambda r, w, site=site: self._serve(site, r, w), "127.0.0.1", 0))
                self.ports[site] = servers[-1].sockets[0].getsockname()[1]
            with contextlib.suppress(OSError):  # a machine without IPv6
                servers.append(await asyncio.start_server(lambda r, w: self._serve("secret", r, w), "::1", self.ports["secret"]))
            up.set()
            await self.over.wait()
            tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for server in servers:
                server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.set_event_loop(self.loop)
        self.loop.set_exception_handler(lambda *args: None)
        self.loop.run_until_complete(main())
        self.loop.close()

    async def _serve(self, site: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            again: object = True
            while again:
                head = await reader.readuntil(b"\r\n\r\n")
                ask = Ask(self, site, head.split(b" ", 2)[1].decode("latin-1"), writer)
                self.asked.append((site, ask.path + (f"?{ask.query}" if ask.query else "")))
                handler = self.routes.get((site, ask.path)) or self.routes.get((site, f"/{ask.path.split('/')[1]}/*")) or self.routes.get((site, "*")) or missing
                again = await handler(ask)
        with contextlib.suppress(Exception):
            writer.close()

    # what there is

    def _put(self, name: str, why: str, handler: Handler, kind: str = "page", site: str = "main", path: str = "", fine: bool = False) -> None:
        path = path or f"/bad/{name.replace(' ', '-')}{'' if kind == 'page' else '.png'}"
        self.routes[site, path] = handler
        self.bad.append(Bad(name, path, why, kind, site, fine))

    def _both(self, name: str, why: str, handler: Handler, **more: object) -> None:
        self._put(name, why, handler, **more)
        self._put(f"picture {name}", why, handler, kind="picture", **more)

    def _plan(self) -> None:
        self._redirects()
        self._bodies()
        self._slow()
        self._pictures()
        self._pages()
        self._robots()
        self._traps()
        self._good()
        links = "".join(f'<a href="{self.url(b.site, b.path)}">{b.name}</a>\n' for b in self.bad if b.kind == "page")
        traps = '<a href="/trap/1">t</a><a href="/cal/2024/01/">c</a><a href="/a/b/">a</a><a href="/shop?sid=1">s</a>'
        shown = "".join(figure(self.url(b.site, b.path), b.name) for b in self.bad if b.kind == "picture")
        self.routes["main", "/"] = lambda ask: ask.say(f"<!doctype html><title>all</title>{links}{traps}{shown}<a href='/good/0'>good</a>")

    def _redirects(self) -> None:
        secret, inside = self.ports["secret"], self.url("secret", "/")
        self._both("redirect to itself", "circle", lambda ask: ask.say("", 301, Location=ask.path))
        self.routes["main", "/bad/circle-b"] = lambda ask: ask.say("", 302, Location="/bad/circle")
        self._put("circle", "circle", lambda ask: ask.say("", 302, Location="/bad/circle-b"))
        self._both("chain of 50", "Too many redirects", lambda ask: ask.say("", 302, Location="/chain/1"))
        self.routes["main", "/chain/*"] = lambda ask: ask.say("the end", 302 if (n := int(ask.path.split("/")[2])) < 50 else 200, Location=f"/chain/{n + 1}")
        self._both("redirect that never repeats", "Too many redirects", lambda ask: ask.say("", 302, Location=f"/random/{random.random()}"))
        self.routes["main", "/random/*"] = lambda ask: ask.say("", 302, Location=f"/random/{random.random()}")
        targets = {
            "metadata": "http://169.254.169.254/latest/meta-data/", "metadata by name": "http://metadata.google.internal/", "six": f"http://[::1]:{secret}/", "mapped": f"http://[::ffff:127.0.0.1]:{secret}/",
            "decimal": f"http://2130706433:{secret}/", "octal": f"http://0177.0.0.1:{secret}/", "hex": f"http://0x7f000001:{secret}/", "short": f"http://127.1:{secret}/", "zero": f"http://0:{secret}/",
            "localhost": f"http://localhost:{secret}/", "other loopback": f"http://127.0.0.9:{secret}/", "user info": f"http://127.0.0.1@localhost:{secret}/", "file": "file:///etc/passwd",
            "gopher": f"gopher://127.0.0.1:{secret}/", "data": "data:text/html,hello", "script": "javascript:alert(1)", "private": "http://10.0.0.1/", "broken": "http://[", "wide digits": f"http://１２７.0.0.1:{secret}/",
        }  # fmt: skip
        for name, target in targets.items():
            why = f"{AWAY}|no answer|robots" if name in ("metadata by name", "decimal", "octal", "short", "zero") else AWAY  # names to some resolvers
            put = self._put if name == "wide digits" else self._both  # these digits are 127.0.0.1, where this site's pictures may come from
            put(f"redirect {name}", why, lambda ask, t=target: ask.raw(f"HTTP/1.1 302 Found\r\nLocation: {t}\r\nContent-Length: 0\r\n\r\n".encode()))
        self._put("redirect other port", "another site", lambda ask: ask.say("", 302, Location=inside))
        self._both("redirect without a place", "not there|nowhere|no page|decoded", lambda ask: ask.say("", 301), fine=True)
        self._both("redirect of a megabyte", "no answer|nowhere", lambda ask: ask.say("", 302, Location="/" + "x" * MB))
        self.routes["secret", "*"] = lambda ask: ask.say("the secret of the intranet")

    def _bodies(self) -> None:
        block, spaces = b"<p>seven " * 7000, b" " * 2**16

        async def endless(ask: Ask) -> None:
            await ask.raw(ask.head())
            await ask.forever(block)

        async def endless_chunks(ask: Ask) -> None:
            await ask.raw(ask.head(Transfer_Encoding="chunked"))
            await ask.forever(f"{len(block):x}\r\n".encode() + block + b"\r\n")

        async def endless_extension(ask: Ask) -> None:
            await ask.raw(ask.head(Transfer_Encoding="chunked"), b"5;a=")
            await ask.forever(b"y" * 2**16)

        async def endless_trailer(ask: Ask) -> None:
            await ask.raw(ask.head(Transfer_Encoding="chunked"), b"2\r\nok\r\n0\r\n")
            await ask.forever(b"X: y\r\n" * 10000)

        async def tiny_chunks(ask: Ask) -> None:
            await ask.raw(ask.head(Transfer_Encoding="chunked"))
            await ask.forever(b"1\r\ny\r\n" * 10000)

        async def endless_line(ask: Ask) -> None:
            await ask.raw(b"HTTP/1.1 200 OK\r\nX-Long: ")
            await ask.forever(b"y" * 2**16)

        async def endless_headers(ask: Ask) -> None:
            await ask.raw(b"HTTP/1.1 200 OK\r\n")
            await ask.forever(b"".join(b"X-%d: %s\r\n" % (k, b"y" * 50) for k in range(1000)))

        async def endless_status(ask: Ask) -> None:
            await ask.raw(b"HTTP/1.1 200 ")
            await ask.forever(b"O" * 2**16)

        async def informational(ask: Ask) -> None:
            await ask.forever(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 100, pause=0.001)

        self._both("endless body", END, endless)
        self._both("endless chunks", END, endless_chunks)
        self._put("endless chunk extension", ENDLESS, endless_extension)
        self._put("endless trailer", ENDLESS, endless_trailer, fine=True)
        self._put("endless tiny chunks", ENDLESS, tiny_chunks)
        self._both("header line that never ends", ENDLESS, endless_line)
        self._both("headers that never end", ENDLESS, endless_headers)
        self._put("status that never ends", ENDLESS, endless_status)
        self._put("hints that never end", ENDLESS, informational)
        self._put("thousands of headers", LOST, lambda ask: ask.say("<p>", **{f"X_{k}": "y" * 50 for k in range(20_000)}), fine=True)
        self._put("flood of cookies", LOST, lambda ask: ask.raw(b"HTTP/1.1 200 OK\r\n" + b"".join(b"Set-Cookie: a%d=%s\r\n" % (k, b"z" * 200) for k in range(20_000)) + b"Content-Length: 0\r\n\r\n"), fine=True)
        self._both("length too long", LOST, lambda ask: ask.raw(ask.head(Content_Length=1000), b"only this"))
        self._put("length too short", f"{BROKEN}|{LOST}", lambda ask: ask.raw(ask.head(kind="image/png", Content_Length=10), picture(1)[0]), kind="picture")
        self._both("length below zero", LOST, lambda ask: ask.raw(ask.head(Content_Length=-5), b"abc"))
        self._both("length beyond all", f"{END}|no answer", lambda ask: ask.raw(ask.head(Content_Length=10**18), b"abc"))
        self._put("length that is none", LOST, lambda ask: ask.raw(ask.head(Content_Length="seven"), b"abc"))
        self._put("two lengths", LOST, lambda ask: ask.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 300\r\n\r\nabc"), fine=True)
        self._put("chunk size that is none", LOST, lambda ask: ask.raw(ask.head(Transfer_Encoding="chunked"), b"zz\r\nabc\r\n0\r\n\r\n"))
        self._put("chunk size below zero", LOST, lambda ask: ask.raw(ask.head(Transfer_Encoding="chunked"), b"-1\r\nabc\r\n0\r\n\r\n"))
        bomb, once = packed(200), gzip.compress(b"<p>twice" * 1000)
        self._both("gzip bomb", END, lambda ask: ask.say(bomb, Content_Encoding="gzip"))
        self._both("deflate bomb", END, lambda ask: ask.say(packed(200, 15), Content_Encoding="deflate"))
        self._put("double gzip bomb", f"{END}|no answer|no page", lambda ask: ask.say(gzip.compress(bomb), Content_Encoding="gzip, gzip"), fine=True)
        self._put("double gzip", LOST, lambda ask: ask.say(gzip.compress(once), Content_Encoding="gzip"), fine=True)
        for coding in ("gzip", "deflate", "br", "zstd"):
            self._both(f"{coding} that is none", f"{LOST}|decoded", lambda ask, c=coding: ask.say(b"no such thing, really not" * 9, Content_Encoding=c), fine=coding == "zstd")
        self._put("gzip that is cut", LOST, lambda ask: ask.say(once[:-20], Content_Encoding="gzip"), fine=True)
        self._put("HTTP 0.9", LOST, lambda ask: ask.raw(b"<html><p>no head at all</html>"))
        self._put("another protocol", LOST, lambda ask: ask.raw(b"SSH-2.0-OpenSSH_9.2\r\n\x00\xff"))
        self._put("switching protocols", LOST + "|no page|too long", lambda ask: ask.raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n" + b"\x00" * 100), fine=True)
        self._put("nothing at all", LOST, lambda ask: ask.raw())
        self._both("gone", "not there", lambda ask: ask.say("gone", 404))
        self._both("broken server", "not there|busy", lambda ask: ask.say("oh", 500))
        self._put("status beyond all", "not there|no answer", lambda ask: ask.say("oh", 999))
        self._put("spaces for ever", END, lambda ask: self._after(ask, spaces))
        self.routes["main", "/bad/reset"] = self.routes["main", "/bad/picture-reset.png"] = reset
        self.bad += [Bad("reset", "/bad/reset", LOST), Bad("picture reset", "/bad/picture-reset.png", LOST, "picture")]

    async def _after(self, ask: Ask, piece: bytes) -> None:
        await ask.raw(ask.head())
        await ask.forever(piece)

    def _slow(self) -> None:
        async def slow_body(ask: Ask) -> None:
            await ask.raw(ask.head(Content_Length=10**5))
            await ask.forever(b"y", pause=0.2)

        async def slow_head(ask: Ask) -> None:
            await ask.raw(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            await ask.forever(b"y", pause=0.2)

        async def slow_redirects(ask: Ask) -> bool:
            await asyncio.sleep(0.5)
            return await ask.say("", 302, Location=f"/bad/slow-redirects?{random.random()}")

        async def silence(ask: Ask) -> None:
            await asyncio.sleep(3600)

        self._both("body byte by byte", SLOW, slow_body, site="slow")
        self._both("head byte by byte", SLOW, slow_head, site="slow")
        self._both("no answer ever", SLOW, silence, site="slow")
        self._put("slow redirects", f"{SLOW}|Too many", slow_redirects, site="slow")
        self._put("head without an end", SLOW + "|no answer", lambda ask: self._stall(ask, b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"), site="slow")
        self._put("chunks without an end", SLOW + "|no answer", lambda ask: self._stall(ask, ask.head(Transfer_Encoding="chunked") + b"5\r\nhello\r\n"), site="slow")

    async def _stall(self, ask: Ask, piece: bytes) -> None:
        await ask.raw(piece)
        await asyncio.sleep(3600)

    def _pictures(self) -> None:
        jpeg = picture(2)[0]

        def show(name: str, why: str, body: bytes, kind: str = "image/png", **more: object) -> None:
            self._put(name, why, lambda ask: ask.say(body, kind=kind), kind="picture", **more)

        show("picture of 900 million pixels", "too many pixels", png(30_000, 30_000))
        show("picture of a line of 2 billion", "too many pixels|decoded|small", png(2**31 - 1, 1)[:500] + b"x")
        for k in range(6):  # each is allowed; all at once they are not
            show(f"picture of 36 million pixels no. {k}", "blank|memory", png(6000, 6000, 8, 2))
        show("picture of deep pixels", "blank|decoded|too many|memory", png(4000, 4000, 16, 6))
        show("animation of 30000 frames", "decoded|blank|frames|format|small", gif(30_000), "image/gif", fine=True)
        show("JPEG that is cut", BROKEN, jpeg[: len(jpeg) // 2], "image/jpeg")
        show("PNG that is cut", BROKEN, picture(3)[0][:700])
        show("PNG with a wrong checksum", BROKEN, picture(3)[0][:900] + b"\x00" * 8 + picture(3)[0][908:])
        show("PNG with a text of 60 MB", "decoded|too large|does not end", png(60, 60, 8, 2, chunk(b"tEXt", b"a\x00" + b"b" * 60 * MB)))
        show("PNG with a packed text of 200 MB", f"{BROKEN}|too large|blank", png(60, 60, 8, 2, chunk(b"zTXt", b"a\x00\x00" + packed(200, 15))))
        show("PNG with a packed profile of 200 MB", f"{BROKEN}|too large|blank", png(60, 60, 8, 2, chunk(b"iCCP", b"a\x00\x00" + packed(200, 15))))
        show("PNG with a packed XMP of 200 MB", f"{BROKEN}|too large|blank", png(60, 60, 8, 2, chunk(b"iTXt", b"XML:com.adobe.xmp\x00\x01\x00\x00\x00" + packed(200, 15))))
        show("SVG with entities", f"{BROKEN}|format", SVG.encode(), "image/svg+xml")
        show("page as a picture", BROKEN, b"<!doctype html><p>no picture")
        show("picture of one shade", "blank", png(60, 60, 8, 2))
        show("picture of one pixel", "small", png(1, 1, 8, 2))
        show("PostScript", BROKEN, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n(%pipe%id) (w) file\n")
        show("empty picture", BROKEN, b"")
        self._put("picture link with a file", AWAY + "|decoded|not there", lambda ask: ask.say("", 302, Location="file:///etc/passwd"), kind="picture")

    def _pages(self) -> None:
        async def stream(ask: Ask, head: str, piece: Callable[[int], str], n: int) -> None:
            await ask.raw(ask.head(), head.encode())
            for start in range(0, n, 10_000):
                await ask.raw("".join(map(piece, range(start, start + 10_000))).encode())

        self._put("100 MB in one line", END, lambda ask: stream(ask, "<p>", lambda k: "seven seven ", 9 * 10**6))
        # Within the limit of the size, and heavy in another way: read or refused, but soon and in little memory.
        self._put("a million links", ".", lambda ask: stream(ask, "<p>", lambda k: f"<a href=l{k:x}>", 10**6), fine=True)
        self._put("250000 links", ".", lambda ask: stream(ask, "<p>", lambda k: f"<a href=l{k:x}>", 250_000), fine=True)
        self._put("a million attributes", ".", lambda ask: stream(ask, "<p", lambda k: f" a{k:x}=1", 10**6), fine=True)
        self._put("300000 attributes", ".", lambda ask: stream(ask, "<p", lambda k: f" a{k:x}=1", 300_000), fine=True)
        self._put("a million elements", ".", lambda ask: stream(ask, "", lambda k: "<b>x</b>", 10**6), fine=True)
        self._put("200000 divs deep", ".", lambda ask: ask.say("<div>" * 200_000 + figure("/nowhere.png")), fine=True)
        self._put("formatting bomb", ".", lambda ask: ask.say("<p>" + "".join(f"<b id={k}>" for k in range(2500)) + "<p>x" * 2500), fine=True)  # 2.3 GB in a browser's tree
        self._put("15000 groups of a drawing deep", ".", lambda ask: ask.say("<svg><g>" * 15_000), fine=True)
        self._put("10000 figures deep", ".", lambda ask: ask.say("".join(f"<figure><p>{'x' * 50}" for _ in range(10_000))), fine=True)
        self._put("3000 licences deep down", ".", lambda ask: ask.say("<figure><i>x</i>" + "<div>" * 5000 + '<a rel="license" href="/l">l</a>' * 3000), fine=True)
        self._put("50000 pictures without a licence", ".", lambda ask: ask.say("".join(f'<figure><img src="/none/{k}.png"></figure>' for k in range(50_000))), fine=True)
        self._put("caption of 5 MB", ".", lambda ask: ask.say(f'<figure><img src="/none.png"><figcaption>{"long " * MB}</figcaption></figure>'), fine=True)
        self._put("entities", ".", lambda ask: ask.say(ENTITIES + "<html>&a11;&f;</html>", kind="application/xhtml+xml"), fine=True)
        self._put("nul and friends", ".", lambda ask: ask.say(b"\x00\xff\xfe<figure><img src='\x00'></figure><a href='\x00\x01'>x</a><a href='http://[::1'>x</a><a href='//'>x</a>"), fine=True)
        self._put("address of a megabyte", ".", lambda ask: ask.say(f'<a href="/{"x" * MB}">far</a><base href="{"y" * MB}">'), fine=True)
        self._put("UTF-16 that is not said", ".", lambda ask: ask.say("<p>hidden".encode("utf-16-le")), fine=True)
        self._put("wrong charset", ".", lambda ask: ask.say("<p>ü".encode("latin-1"), kind='text/html; charset="utf-7"'), fine=True)
        self._put("not a page", "no page", lambda ask: ask.say("plain", kind="text/plain"))
        self._put("a program", "no page", lambda ask: ask.say(b"\x7fELF" + bytes(1000), kind="application/octet-stream"))
        # A sitemap is asked for by those who read robots.txt for it.
        self.routes["main", "/sitemap-bomb.xml.gz"] = lambda ask: ask.say(packed(60, 31, b'<?xml version="1.0"?><urlset><url><loc>'), kind="application/gzip")
        self.routes["main", "/sitemap-entities.xml"] = lambda ask: ask.say(ENTITIES + "<urlset><url><loc>&a11;&f;</loc></url></urlset>", kind="application/xml")
        self.routes["main", "/sitemap-circle.xml"] = lambda ask: ask.say(f"<sitemapindex><sitemap><loc>{self.url('main', '/sitemap-circle.xml')}</loc></sitemap></sitemapindex>", kind="application/xml")
        names = ("bomb.xml.gz", "entities.xml", "circle.xml")
        self.routes["main", "/robots.txt"] = lambda ask: ask.say("User-agent: *\nDisallow: /closed/\n" + "".join(f"Sitemap: {self.url('main', f'/sitemap-{n}')}\n" for n in names), kind="text/plain")
        self._put("closed", "robots.txt", lambda ask: ask.say("closed"), path="/closed/room")

    def _robots(self) -> None:
        async def hang(ask: Ask) -> None:
            await asyncio.sleep(3600)

        async def drip(ask: Ask) -> None:
            await ask.raw(ask.head(kind="text/plain"))
            await ask.forever(b"#", pause=0.2)

        async def big(ask: Ask) -> None:
            await ask.raw(ask.head(kind="text/plain"), b"User-agent: *\nDisallow: /closed/\n")
            await ask.forever(b"# nothing of interest\n" * 3000, most=100 * MB)

        rules: dict[str, Handler] = {
            "robots503": lambda ask: ask.say("busy", 503), "robotshang": hang, "robotsdrip": drip, "robotsreset": reset, "robotsbig": big,
            "robotscircle": lambda ask: ask.say("", 302, Location="/robots.txt"), "robotsbomb": lambda ask: ask.say(packed(60, 31, b"User-agent: *\nDisallow: /closed/\n"), kind="text/plain", Content_Encoding="gzip"),
        }  # fmt: skip
        for site, handler in rules.items():
            self.routes[site, "/robots.txt"] = handler
            fine = site in ("robotsbig", "robotscircle", "robotsbomb")  # RFC 9309 lets one read the beginning, or go on without
            self._put(site, "robots.txt", lambda ask: ask.say("<p>nothing here"), site=site, path="/page", fine=fine)
            self._put(f"picture {site}", "robots.txt", lambda ask, k=len(self.bad): ask.say(picture(10_000 + k)[0], kind="image/png"), "picture", site=site, path="/1.png", fine=fine)
        for name, after in {"beyond all": 10**12, "below zero": -5, "of a word": "soon", "of a far date": "Fri, 31 Dec 9999 23:59:59 GMT", "of a past date": "Thu, 01 Jan 1970 00:00:00 GMT"}.items():
            self._put(f"rest {name}", "busy|rest|wait|budget|asked", lambda ask, a=after: ask.say("busy", 429, Retry_After=a), site="absurd")
            self._put(f"picture rest {name}", "busy|rest|wait|budget|asked", lambda ask, a=after: ask.say("busy", 503, Retry_After=a), "picture", site="absurd")

    def _traps(self) -> None:
        def page(links: list[str]) -> str:
            return "<!doctype html><title>more</title>" + "".join(f'<a href="{link}">more</a>' for link in links)

        def trap(ask: Ask) -> Awaitable[bool]:
            n = int(ask.path.split("/")[2])
            return ask.say(page([f"/trap/{(n * 7919 + k) % 10**6}" for k in range(20)]))

        def calendar(ask: Ask) -> Awaitable[bool]:
            year, month = (int(x) for x in ask.path.split("/")[2:4])
            later, earlier = (year + month // 12, month % 12 + 1), (year - (month == 1), (month - 2) % 12 + 1)
            return ask.say(page([f"/cal/{y}/{m:02}/" for y, m in (later, earlier)] + [f"/cal/{year}/{month:02}/{d:02}" for d in range(1, 29)]))

        self.routes["main", "/trap/*"] = trap
        self.routes["main", "/cal/*"] = calendar
        self.routes["main", "/a/*"] = lambda ask: ask.say(page(["a/", "b/", "a/b/", "b/a/"]))
        self.routes["main", "/shop"] = lambda ask: ask.say(page([f"/shop?sid={random.getrandbits(64):x}&view={k}" for k in range(20)]))

    def _good(self) -> None:
        """Pages one behind the other, each with pictures that are sent in all the ways that are right."""
        seed = iter(range(10_000))

        def shown(site: str, path: str, wrap: Callable[[Ask, bytes, str], Awaitable[object]] | None = None) -> str:
            body, kind = picture(next(seed))
            self.routes[site, path] = (lambda ask: wrap(ask, body, kind)) if wrap else (lambda ask: ask.say(body, kind=kind))
            self.good[self.url(site, path)] = hashlib.sha256(body).hexdigest()
            return figure(self.url(site, path))

        async def chunks(ask: Ask, body: bytes, kind: str) -> bool:
            await ask.raw(ask.head(kind=kind, Transfer_Encoding="chunked"), *(b"%x\r\n" % len(p) + p + b"\r\n" for p in (body[k : k + 500] for k in range(0, len(body), 500))), b"0\r\n\r\n")
            return True

        async def later(ask: Ask, body: bytes, kind: str) -> bool:
            self.first[ask.path] = n = self.first.get(ask.path, 0) + 1
            return await (ask.say("busy", 429, Retry_After=1) if n == 1 else ask.say(body, kind=kind))

        async def calm(ask: Ask, body: bytes, kind: str) -> bool:
            await asyncio.sleep(0.5)
            return await ask.say(body, kind=kind)

        ways: dict[str, Callable] = {
            "chunks": chunks, "busy-first": later, "calm": calm, "without-length": lambda ask, body, kind: ask.raw(ask.head(kind=kind) + body),
            "gzip": lambda ask, body, kind: ask.say(gzip.compress(body), kind=kind, Content_Encoding="gzip"), "wrong-type": lambda ask, body, kind: ask.say(body, kind="text/html"),
            "old": lambda ask, body, kind: ask.raw(b"HTTP/1.0 200 OK\r\n\r\n" + body), "cookies": lambda ask, body, kind: ask.say(body, kind=kind, Set_Cookie="a=" + "b" * 4000),
            "moved": lambda ask, body, kind: ask.say(body, kind=kind) if ask.query else ask.say("", 307, Location=f"{ask.path}?here"),
        }  # fmt: skip
        for k in range(self.n_good):
            body = "".join(shown("main", f"/good/{k}-{j}") for j in range(3)) + f'<a href="/good/{k + 1}">on</a>'
            if k == 1:
                body += "".join(shown("busy" if name == "busy-first" else "main", f"/good/{name}", how) for name, how in ways.items())
            # What a page says of its letters, in the ways that are right.
            data, kind = {
                2: (body.encode("utf-16-be"), "text/html; charset=utf-16be"), 3: (body.encode("utf-16"), "text/html"), 4: (f"<p>ü{body}".encode("latin-1"), "text/html; charset=utf-8"),
                5: (body.encode(), "text/html; charset=nonsense"), 6: (f"<meta charset=windows-1252><p>ü{body}".encode("cp1252"), "text/html"), 7: (body.encode(), "application/xhtml+xml"),
            }.get(k, (f"<!doctype html><title>good</title>{body}".encode(), "text/html"))  # fmt: skip
            self.routes["main", f"/good/{k}"] = lambda ask, data=data, kind=kind: ask.say(data, kind=kind)


async def missing(ask: Ask) -> bool:
    return await ask.say("not here", 404)


async def reset(ask: Ask) -> None:
    """Hang up as rudely as TCP knows."""
    import socket

    ask.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ask.writer.transport.abort()
