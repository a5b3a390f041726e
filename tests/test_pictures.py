"""Pictures: which are refused, what they say of their rights, and which of them are the same."""
import functools
import io
import struct
import tarfile
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, PngImagePlugin

from fullstack_ml.core import BadInput, TooLarge, UnsupportedType
from fullstack_ml.pictures import FORMATS, check_header, embedded_rights, inspect, look, near_duplicates, near_to, small_pixels, thumbnail
from fullstack_ml.records import Item
from fullstack_ml.sample_site import gallery

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
LIMITS = {"max_pixels": 40_000_000, "min_side": 8, "min_contrast": 8}
BITS = 10  # near-duplicates differ in at most so many


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def photograph(size=(120, 90), seed=0, mode="RGB"):
    noise = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode)


def huge_png(side):
    """A PNG of side x side pixels that is a few hundred bytes long."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def bits(a, b):
    return (int(a, 16) ^ int(b, 16)).bit_count()


def hash_of(image, kind="BMP", **options):
    return inspect(Item(), encoded(image, kind, **options), LIMITS).phash


# What is a picture


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_its_type_size_and_hash(kind):
    body = encoded(photograph(), kind)
    item = inspect(Item(), body, LIMITS)
    assert (item.mime, item.width, item.height, len(item.phash)) == (FORMATS[kind], 120, 90, 36)
    assert check_header(body) == (FORMATS[kind], 120, 90)
    assert inspect(Item(), body, LIMITS) == item, "the same bytes have one hash"


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_every_mode_of_png_can_be_read(mode):
    image = photograph(mode="L")
    image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    item = inspect(Item(), encoded(image), LIMITS)
    assert mode == "1" or bits(item.phash, hash_of(photograph(mode="L"))) <= BITS


@pytest.mark.parametrize("name, said", [
    ("photograph", "d05a7bec8df0620dadac3bad3e771e410053"), ("grey", "87b4fc77a603f58e046da0c9aa7aa4559d32"), ("palette", "d4ecac58e5e2f18e084239e06f963f9c413f"),
    ("see-through", "b0ec21c75716803fcb7bcc313478f8cf8346"), ("blank", "8" + 35 * "0"),
])  # fmt: skip
def test_hashes_are_those_that_databases_hold(name, said):
    image = {
        "photograph": photograph(), "grey": photograph((300, 500), 3, "L"), "palette": photograph((250, 200), 4).quantize(16),
        "see-through": photograph((220, 260), 5, "RGBA"), "blank": Image.new("RGB", (40, 40), "teal"),
    }[name]  # fmt: skip
    if name == "see-through":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    assert inspect(Item(), encoded(image), {**LIMITS, "min_contrast": 0}).phash == said, "made by imagehash 4.3"


def test_a_small_dot_on_paper_is_no_blank_picture():
    image = Image.new("L", (380, 380), 255)
    image.putpixel((200, 170), 240)  # nothing is left of it at 96 pixels
    assert inspect(Item(), encoded(image), LIMITS).state == "kept"
    with pytest.raises(BadInput, match="blank: shades 240 to 255"):
        inspect(Item(), encoded(image), {**LIMITS, "min_contrast": 16})


def test_a_cmyk_jpeg_is_read():
    assert inspect(Item(), encoded(photograph().convert("CMYK"), "JPEG"), LIMITS).mime == "image/jpeg"


def test_what_is_transparent_lies_on_white():
    drawn = Image.new("RGBA", (64, 64))
    ImageDraw.Draw(drawn).ellipse((16, 16, 48, 40), fill=(0, 0, 0, 255))
    item = inspect(Item(), encoded(drawn), LIMITS)
    assert item.meta["look"]["brightness"] > 0.7


def test_a_phones_jpeg_with_a_second_picture_is_a_jpeg():
    out = io.BytesIO()
    photograph().save(out, "MPO", save_all=True, append_images=[photograph(seed=1)])
    assert Image.open(io.BytesIO(out.getvalue())).format == "MPO"
    assert inspect(Item(), out.getvalue(), LIMITS).mime == "image/jpeg"


@pytest.mark.parametrize("kind", FORMATS)
def test_a_picture_that_is_cut_short_is_refused(kind):
    body = encoded(photograph((300, 200)), kind)
    for part in (0.3, 0.7):
        with pytest.raises(BadInput, match="cannot be decoded"):
            inspect(Item(), body[: int(len(body) * part)], LIMITS)


@pytest.mark.parametrize("body", [b"", b"<svg/>", b"%!PS-Adobe-3.0 EPSF-3.0", b"\0" * 1000, b"II*\0" + b"\0" * 100, b"\x89PNG\r\n\x1a\n", b"GIF89a"], ids=repr)
def test_junk_is_refused_in_one_sentence(body):
    with pytest.raises(BadInput, match="cannot be decoded"):
        inspect(Item(), body, LIMITS)
    with pytest.raises(BadInput):
        check_header(body)
    assert embedded_rights(body) == {}


def test_flipped_bytes_raise_nothing_but_our_errors():
    rng = np.random.default_rng(0)
    for kind in FORMATS:
        body = encoded(photograph(), kind)
        for _ in range(40):
            broken = bytearray(body)
            for at in rng.integers(0, len(body), 4):
                broken[at] = rng.integers(0, 256)
            for call in (lambda b: inspect(Item(), b, LIMITS), thumbnail, small_pixels, check_header):
                try:
                    call(bytes(broken))
                except BadInput:
                    pass
            embedded_rights(bytes(broken))


@pytest.mark.parametrize("side", [7000, 20_000, 60_000])
def test_a_bomb_is_refused_before_it_is_decoded(side):
    began = time.perf_counter()
    for call in (lambda: inspect(Item(), huge_png(side), LIMITS), lambda: check_header(huge_png(side)), lambda: thumbnail(huge_png(side))):
        with pytest.raises(TooLarge, match="too many pixels"):
            call()
    assert time.perf_counter() - began < 1
    assert embedded_rights(huge_png(side)) == {}


def test_a_thousand_frames_cost_no_more_than_one():
    frames = [photograph((200, 200), k).convert("P") for k in range(2)] * 300
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    began = time.perf_counter()
    assert inspect(Item(), out.getvalue(), LIMITS).mime == "image/gif"
    assert time.perf_counter() - began < 0.5


def test_a_jpeg_with_endless_passes_is_refused():
    body = encoded(photograph(), "JPEG", progressive=True)
    inspect(Item(), body, LIMITS)
    with pytest.raises(TooLarge, match="passes"):
        inspect(Item(), body + b"\xff\xda" * 200, LIMITS)


def test_blank_and_tiny_pictures_are_refused():
    with pytest.raises(BadInput, match="blank"):
        inspect(Item(), encoded(Image.new("L", (64, 64), 7)), LIMITS)
    with pytest.raises(BadInput, match="too small: 7 x 90"):
        inspect(Item(), encoded(photograph((7, 90))), LIMITS)


def test_other_formats_can_be_asked_for():
    body = encoded(photograph(), "GIF")
    with pytest.raises(UnsupportedType, match="image/png"):
        check_header(body, formats={"PNG": "image/png"})


def test_what_was_known_of_an_item_stays():
    item = inspect(Item(url="a.png", meta={"licence_said": "CC BY"}), encoded(photograph()), LIMITS)
    assert item.url == "a.png" and item.meta["licence_said"] == "CC BY" and set(item.meta) == {"licence_said", "look"}


def test_the_look_tells_dark_from_light_and_grey_from_colour():
    black, white, red = (look(np.full((9, 9, 3), c, np.uint8)) for c in ((0, 0, 0), (255, 255, 255), (255, 0, 0)))
    assert black["brightness"] == 0 and white["brightness"] == 1 and white["colourfulness"] == 0 < 50 < red["colourfulness"]


# What it says of its rights

XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:cc="http://creativecommons.org/ns#" xmlns:xmpRights="http://ns.adobe.com/xap/1.0/rights/"
 xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" {attributes}>{inside}</rdf:Description></rdf:RDF></x:xmpmeta>"""
BY = "https://creativecommons.org/licenses/by/4.0/"


def xmp(inside="", attributes=""):
    return XMP.format(inside=inside, attributes=attributes).encode()


def exif(tags):
    made = Image.Exif()
    made.update(tags)
    return made


def iptc(**fields):
    records = {"copyright": 116, "byline": 80}
    data = b"".join(b"\x1c\x02" + bytes([records[k]]) + struct.pack(">H", len(v)) + v for k, v in fields.items())
    block = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(data)) + data + b"\0" * (len(data) % 2)
    body = encoded(photograph(), "JPEG")
    return body[:2] + b"\xff\xed" + struct.pack(">H", len(block) + 2) + block + body[2:]


def png(**texts):
    info = PngImagePlugin.PngInfo()
    for k, v in texts.items():
        info.add_itxt(k, v)
    return encoded(photograph(), "PNG", pnginfo=info)


SAID = {
    "cc:license": (encoded(photograph(), "JPEG", xmp=xmp(f'<cc:license rdf:resource="{BY}"/>')), {"licence": BY, "licence_from": "XMP cc:license"}),
    "a web statement as attribute": (
        encoded(photograph(), "WEBP", xmp=xmp("", f'xmpRights:WebStatement="{BY}"')), {"licence": BY, "licence_from": "XMP xmpRights:WebStatement"}),
    "dc:rights in two languages": (
        encoded(photograph(), "JPEG", xmp=xmp('<dc:rights><rdf:Alt><rdf:li xml:lang="x-default">© Zoë</rdf:li><rdf:li xml:lang="de">Ⓒ</rdf:li></rdf:Alt></dc:rights>')),
        {"licence": "© Zoë", "licence_from": "XMP dc:rights"}),
    "two creators": (
        encoded(photograph(), "JPEG", xmp=xmp("<dc:creator><rdf:Seq><rdf:li>Ann</rdf:li><rdf:li>Bo</rdf:li></rdf:Seq></dc:creator>")), {"author": "Ann, Bo"}),
    "no mining": (
        encoded(photograph(), "JPEG", xmp=xmp("", 'plus:DataMining="http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED"')), {"opt_out": "dmi-prohibited"}),
    "mining allowed": (encoded(photograph(), "JPEG", xmp=xmp("", 'plus:DataMining="http://ns.useplus.org/ldf/vocab/DMI-ALLOWED"')), {}),
    "public domain": (encoded(photograph(), "JPEG", xmp=xmp("", 'xmpRights:Marked="False"')), {"licence": "public domain", "licence_from": "XMP xmpRights:Marked"}),
    "made by a machine": (
        encoded(photograph(), "JPEG", xmp=xmp("", 'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"')),
        {"source_type": "trainedAlgorithmicMedia"}),
    "EXIF": (
        encoded(photograph(), "JPEG", exif=exif({33432: "© Jürgen".encode(), 315: "Jürgen".encode()})),
        {"licence": "© Jürgen", "licence_from": "EXIF Copyright", "author": "Jürgen"}),
    "IPTC": (iptc(copyright=b"CC BY 4.0", byline="Löwe".encode("latin-1")), {"licence": "CC BY 4.0", "licence_from": "IPTC CopyrightNotice", "author": "Löwe"}),
    "PNG text": (png(Copyright="CC0", Author="Ines 陈"), {"licence": "CC0", "licence_from": "PNG Copyright", "author": "Ines 陈"}),
    "XMP in PNG": (png(**{"XML:com.adobe.xmp": xmp(f'<cc:license rdf:resource="{BY}"/>').decode()}), {"licence": BY, "licence_from": "XMP cc:license"}),
}  # fmt: skip


@pytest.mark.parametrize("body, said", SAID.values(), ids=SAID)
def test_a_file_names_its_rights(body, said):
    assert embedded_rights(body) == said
    assert inspect(Item(), body, LIMITS).meta.get("embedded", {}) == said


def test_an_address_of_a_licence_goes_before_a_sentence():
    body = encoded(photograph(), "JPEG", exif=exif({33432: "All rights reserved"}), xmp=xmp(f'<dc:rights>mine</dc:rights><cc:license rdf:resource="{BY}"/>'))
    assert embedded_rights(body)["licence_from"] == "XMP cc:license"
    body = encoded(photograph(), "JPEG", exif=exif({33432: "All rights reserved"}), xmp=xmp("", 'xmpRights:Marked="False"'))
    assert embedded_rights(body)["licence"] == "All rights reserved", "a flag does not outweigh a sentence"


def test_text_behind_the_pixels_of_a_png_is_found():
    body, info = encoded(photograph()), b"Copyright\0behind"
    late = struct.pack(">I", len(info)) + b"tEXt" + info + struct.pack(">I", zlib.crc32(b"tEXt" + info))
    body = body[:-12] + late + body[-12:]
    assert embedded_rights(body)["licence"] == inspect(Item(), body, LIMITS).meta["embedded"]["licence"] == "behind"


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + "".join(f'<!ENTITY {c} "{f"&{b};" * 10}">' for b, c in zip("abcdefgh", "bcdefghi")) + "]><x>&i;</x>"
JUNK = [b"<", b"\xff\xfe\0<", BOMB.encode(), b"<a>" * 20_000, b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>', b"<x:y/>", b"x" * 60_000]


@pytest.mark.parametrize("packet", JUNK, ids=["cut", "UTF-16", "entities", "deep", "outside", "namespace", "long"])
def test_a_hostile_packet_says_nothing_and_costs_nothing(packet):
    body, began = encoded(photograph(), "WEBP", xmp=packet), time.perf_counter()
    assert embedded_rights(body) == {} and "embedded" not in inspect(Item(), body, LIMITS).meta
    assert time.perf_counter() - began < 1


def test_what_a_file_says_is_one_short_printable_line():
    said = embedded_rights(encoded(photograph(), "JPEG", exif=exif({33432: ("a\nb\x1b[31m\u202e" + "c" * 5000).encode()})))["licence"]
    assert said.isprintable() and len(said) <= 500 and said.startswith("a b")


def test_a_turned_picture_is_hashed_as_it_is_shown():
    image = photograph((160, 100), mode="L")
    for orientation, turn in {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}.items():
        stored = image if turn is None else image.transpose(turn)
        body = encoded(stored, "JPEG", quality=95, exif=exif({274: orientation}))
        assert bits(inspect(Item(), body, LIMITS).phash, hash_of(image)) <= BITS, orientation
        assert Image.open(io.BytesIO(thumbnail(body, 80))).size == (80, 50)


# Have we seen it?


@functools.lru_cache
def digits():
    return [Image.open(io.BytesIO(p.data)).convert("L") for p in gallery() if p.kind == "original"]


@functools.lru_cache
def cells():
    path = SHARED / "bccd" / "bccd.tar"
    if not path.exists():
        pytest.skip("the photographs of blood cells are not at hand")
    with tarfile.open(path) as tar:
        return [Image.open(io.BytesIO(tar.extractfile(m).read())).convert("RGB") for m in tar if m.name.endswith(".jpg")]


@functools.lru_cache
def drawings():
    rng, made = np.random.default_rng(3), []
    for _ in range(40):
        image = Image.new("L", rng.integers(80, 300, 2).tolist(), int(rng.integers(200, 256)))
        (w, h), a, b = image.size, rng.uniform(0.15, 0.4), rng.uniform(0.1, 0.4)
        shape = [ImageDraw.Draw(image).ellipse, ImageDraw.Draw(image).rectangle][rng.integers(2)]
        shape((w / 2 - a * w, h / 2 - b * h, w / 2 + a * w, h / 2 + b * h), fill=int(rng.integers(0, 120)))
        made.append(image)
    return made


def shifted(image, dx, dy):
    paper = Image.new(image.mode, image.size, image.getpixel((0, image.height // 2)))
    paper.paste(image, (dx, dy))
    return paper


COPIES = {
    "saved as JPEG": lambda i: (i, "JPEG", {"quality": 80}),
    "saved as WEBP": lambda i: (i.convert("RGB"), "WEBP", {"quality": 85}),
    "a little darker": lambda i: (i.point(lambda v: v * 0.94), "BMP", {}),
    "a little lighter": lambda i: (i.point(lambda v: v * 0.94 + 6), "BMP", {}),
    "at nine tenths": lambda i: (i.resize([round(s * 0.9) for s in i.size], Image.Resampling.BICUBIC), "BMP", {}),
    "at twice the size": lambda i: (i.resize([2 * s for s in i.size], Image.Resampling.BICUBIC), "JPEG", {"quality": 80}),
    "one pixel to the right": lambda i: (shifted(i, 1, 0), "BMP", {}),
}


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("pictures", [digits, cells, drawings], ids=lambda f: f.__name__)
def test_a_copy_has_nearly_the_same_hash(pictures, copy):
    images = pictures()
    images = images[:: max(1, len(images) // 30)]
    changed = [COPIES[copy](i) for i in images]
    far = [d for i, (c, kind, options) in zip(images, changed) if (d := bits(hash_of(i), hash_of(c, kind, **options))) > BITS]
    assert len(far) <= len(images) * 0.05, far


def test_different_digits_are_not_near():
    hashes = [hash_of(i) for i in digits()]
    assert len({h for h in hashes}) == len(hashes) and len(set(near_duplicates(hashes, BITS))) == len(hashes)


def test_different_photographs_are_not_near():
    images = cells()
    groups = near_duplicates([hash_of(i) for i in images], BITS)
    assert len(set(groups)) == len(images) - 1, "one photograph of the blood cells is there twice, and nothing else is near"


def brute(hashes, max_bits):
    """Groups by comparing all pairs."""
    group = list(range(len(hashes)))
    for i in range(len(hashes)):
        for j in range(i):
            if hashes[i] and hashes[j] and bits(hashes[i], hashes[j]) <= max_bits and group[i] != group[j]:
                group = [group[j] if g == group[i] else g for g in group]
    return group


def same_groups(a, b):
    return len(set(zip(a, b))) == len(set(a)) == len(set(b))


@pytest.mark.parametrize("max_bits", [0, 1, 3, 10])
@pytest.mark.parametrize("n_bytes", [1, 2, 8, 18])
def test_groups_are_those_of_comparing_all_pairs(n_bytes, max_bits):
    rng = np.random.default_rng(n_bytes * 11 + max_bits)
    hashes = []
    for _ in range(60):
        seed = np.unpackbits(rng.integers(0, 256, n_bytes, np.uint8))
        for _ in range(4):
            seed = seed.copy()
            seed[rng.integers(0, len(seed), rng.integers(0, 8))] ^= 1
            hashes.append(np.packbits(seed).tobytes().hex())
    hashes[7] = hashes[100] = ""
    assert same_groups(near_duplicates(hashes, max_bits).tolist(), brute(hashes, max_bits))
    pairs = {(i, j) for i, a in enumerate(hashes[:50]) for j, b in enumerate(hashes[50:]) if a and b and bits(a, b) <= max_bits}
    assert {tuple(p) for p in near_to(hashes[:50], hashes[50:], max_bits).tolist()} == pairs


def test_many_that_share_a_piece_are_grouped_right(monkeypatch):
    monkeypatch.setattr("fullstack_ml.pictures._MANY", 5)
    test_groups_are_those_of_comparing_all_pairs(2, 3)
    test_groups_are_those_of_comparing_all_pairs(18, 10)


def test_nothing_and_unknown_hashes_are_groups_of_their_own():
    assert near_duplicates([], 10).tolist() == [] and len(set(near_duplicates(["", "", ""], 10))) == 3
    assert near_to([], ["ff"], 1).shape == near_to(["ff"], [], 1).shape == near_to([""], [""], 1).shape == (0, 2)


@pytest.mark.parametrize("hashes", [["ff", "ff00"], ["zz", "ff"], ["f", "f0f"]], ids=str)
def test_hashes_that_do_not_fit_together_are_refused(hashes):
    with pytest.raises(BadInput, match="perceptual hashes"):
        near_duplicates(hashes, 1)


def test_fifty_thousand_hashes_and_twenty_thousand_equal_ones_take_a_moment():
    rng = np.random.default_rng(0)
    many = [h.tobytes().hex() for h in rng.integers(0, 256, (50_000, 18), np.uint8)]
    close = []
    for _ in range(3000):
        flipped = np.zeros(144, np.uint8)
        flipped[rng.integers(0, 144, 4)] = 1
        close.append(np.packbits(flipped).tobytes().hex())
    began = time.perf_counter()
    assert len(set(near_duplicates(many, 10))) == 50_000
    assert len(set(near_duplicates(["ab" * 18] * 20_000, 10))) == 1
    assert len(set(near_duplicates(close, 10))) == 1
    assert len(near_to(many[:500], many, 10)) == 500
    assert time.perf_counter() - began < 5, "about half a second where nothing else runs"


def test_looking_at_pictures_does_not_stop_other_threads():
    body, gaps, stop = encoded(photograph((4000, 3000)), "JPEG", quality=90), [], threading.Event()

    def tick():
        last = time.perf_counter()
        while not stop.is_set():
            time.sleep(0.001)
            gaps.append((now := time.perf_counter()) - last)
            last = now

    inspect(Item(), body, LIMITS)
    thread = threading.Thread(target=tick)
    thread.start()
    for _ in range(5):
        inspect(Item(), body, LIMITS)
    stop.set()
    thread.join()
    assert np.median(gaps) < 0.01 and max(gaps) < 0.25


def test_a_thumbnail_is_small_and_never_enlarged():
    assert Image.open(io.BytesIO(thumbnail(encoded(photograph((900, 300))), 96))).size == (96, 32)
    assert Image.open(io.BytesIO(thumbnail(encoded(photograph((20, 10))), 96))).size == (20, 10)
    with pytest.raises(BadInput, match="cannot be decoded"):
        thumbnail(encoded(photograph())[:500])
    assert small_pixels(encoded(photograph(mode="L")), 16).shape == (16, 16, 3)
