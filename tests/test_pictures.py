"""Pictures as people have them: rotated, transparent, grey, 16 bits, of other colours, broken. `open_picture` makes
them upright RGB, in sRGB."""
import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from files import UserError
from pictures import (load_pictures, open_picture, save_picture, sheet, square, stack, to_images, to_tensor,
                      warn_of_small)

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def pixels(image):
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def upright():
    """4 wide, 6 high, every pixel different."""
    return Image.fromarray(np.arange(72, dtype=np.uint8).reshape(6, 4, 3) * 3)


def strip(*values):
    """These numbers from left to right, four times: what is smaller is no picture."""
    return np.array([values] * 4)


def bytes_of(kind, side=64):
    """A file with noise in it, which no format can make small."""
    noise, buffer = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8), io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


# What a camera does to the upright picture before it stores it with this orientation in EXIF.
TURNS = {1: None, 2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
         7: "TRANSVERSE", 8: "ROTATE_270"}


@pytest.mark.parametrize("orientation", TURNS)
def test_a_photo_is_upright_whatever_way_the_camera_was_held(tmp_path, orientation):
    """A telephone stores every photo lying down, with a note which way is up. Ignore it, and the teapots lie down."""
    turn = TURNS[orientation]
    stored, exif = upright().transpose(Image.Transpose[turn]) if turn else upright(), Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.png", exif=exif)
    opened = open_picture(tmp_path / "photo.png")
    assert opened.size == (4, 6)
    assert np.abs(pixels(opened) - pixels(upright())).max() == 0


def test_what_is_transparent_becomes_white(tmp_path):
    image = Image.new("RGBA", (4, 4), RED)
    image.putalpha(Image.fromarray(strip(0, 128, 255, 255).astype("uint8")))
    image.save(tmp_path / "logo.png")
    assert np.abs(pixels(open_picture(tmp_path / "logo.png"))[3] - [WHITE, (255, 127, 127), RED, RED]).max() <= 1


@pytest.mark.parametrize("name", ["palette.png", "palette.gif"])
def test_the_transparent_colour_of_a_palette_becomes_white(tmp_path, name):
    image = Image.fromarray(strip(0, 1, 2, 0).astype("uint8"), "P")
    image.putpalette([*BLUE, *RED, *GREEN])
    image.save(tmp_path / name, transparency=1)
    assert (pixels(open_picture(tmp_path / name)) == [BLUE, WHITE, GREEN, BLUE]).all()


@pytest.mark.parametrize("mode, colour, transparency", [("RGB", RED, RED), ("L", 7, 7), ("1", 0, 0)])
def test_a_colour_declared_transparent_becomes_white(tmp_path, mode, colour, transparency):
    Image.new(mode, (4, 4), colour).save(tmp_path / "one.png", transparency=transparency)
    assert (pixels(open_picture(tmp_path / "one.png")) == 255).all()


def test_a_palette_with_alpha_by_entry_is_laid_on_white(tmp_path):
    image = Image.fromarray(strip(0, 1, 0, 1).astype("uint8"), "P")
    image.putpalette([*RED, *GREEN])
    image.save(tmp_path / "soft.png", transparency=bytes([255, 128]))
    assert np.abs(pixels(open_picture(tmp_path / "soft.png")) - [RED, (127, 255, 127)] * 2).max() <= 1


@pytest.mark.parametrize("mode, value, expected", [
    ("L", 100, (100, 100, 100)), ("LA", (100, 255), (100, 100, 100)), ("LA", (100, 0), WHITE), ("RGB", RED, RED)])
def test_grey_keeps_its_brightness(tmp_path, mode, value, expected):
    Image.new(mode, (4, 5), value).save(tmp_path / "grey.png")
    assert (pixels(open_picture(tmp_path / "grey.png")) == expected).all()


@pytest.mark.parametrize("name", ["print.tif", "print.jpg"])
def test_the_colours_of_print_become_those_of_a_screen(tmp_path, name):
    """CMYK, as from a print shop: no ink is white, all of the magenta and the yellow is red."""
    for ink, expected in (((0, 0, 0, 0), WHITE), ((0, 255, 255, 0), RED), ((0, 0, 0, 255), (0, 0, 0))):
        Image.new("CMYK", (8, 8), ink).save(tmp_path / name)
        assert np.abs(pixels(open_picture(tmp_path / name)) - expected).max() <= 3


@pytest.mark.parametrize("name, kind", [("deep.png", "<u2"), ("deep.tif", "<u2"), ("deep.tif", ">u2")])
def test_sixteen_bits_of_grey_are_scaled_and_not_clipped(tmp_path, name, kind):
    """Pillow's own conversion would make everything above 255, that is 99.6 % of the range, plain white."""
    values = strip(0, 257, 32_896, 65_535)
    mode = {"<u2": "I;16", ">u2": "I;16B"}[kind]
    Image.frombytes(mode, (4, 4), values.astype(kind).tobytes()).save(tmp_path / name)
    assert np.abs(pixels(open_picture(tmp_path / name))[:, :, 0] - [0, 1, 128, 255]).max() <= 1


def test_a_dark_picture_of_sixteen_bits_stays_dark(tmp_path):
    """A night sky, all of its values below 256 of 65,535: the file says 16 bits, so black it is."""
    Image.fromarray(strip(0, 50, 100, 255).astype("uint16")).save(tmp_path / "night.png")
    assert pixels(open_picture(tmp_path / "night.png")).max() <= 1


def test_black_and_white_has_two_colours(tmp_path):
    Image.fromarray(strip(True, False, True, True)).save(tmp_path / "fax.png")
    assert (pixels(open_picture(tmp_path / "fax.png"))[:, :, 0] == [255, 0, 255, 255]).all()


@pytest.mark.parametrize("size", [(4, 4), (5000, 4), (4, 5000)])
def test_a_picture_of_any_shape_opens(tmp_path, size):
    Image.new("RGB", size, GREEN).save(tmp_path / "shape.png")
    image = open_picture(tmp_path / "shape.png")
    assert image.size == size and (pixels(image) == GREEN).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (5000, 3), (3, 5000)])
def test_a_picture_with_less_than_four_pixels_to_a_side_shows_nothing(tmp_path, size):
    """Web pages have such, to count who reads them."""
    Image.new("RGB", size, GREEN).save(tmp_path / "dot.gif")
    with pytest.raises(UserError, match=f"dot.gif is {size[0]} x {size[1]} pixels: too small"):
        open_picture(tmp_path / "dot.gif")


def test_a_picture_survives_the_way_to_a_tensor_and_back():
    image = Image.fromarray(np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3))
    x = to_tensor(image)
    assert x.shape == (3, 16, 16) and x.min() == -1 and x.max() == 1
    assert np.abs(pixels(to_images(x[None])[0]) - pixels(image)).max() == 0


def test_the_square_is_cut_from_the_middle_of_an_upright_photo():
    """Or, with a generator, from anywhere."""
    photo = Image.new("RGB", (300, 100), "white")
    photo.paste("black", (100, 0, 200, 100))
    assert square(photo, 50).size == (50, 50)
    assert square(photo, 50).resize((1, 1)).getpixel((0, 0))[0] < 10
    crops = {square(photo, 50, torch.Generator().manual_seed(i)).tobytes() for i in range(8)}
    assert len(crops) > 1


# === colours ==========================================================================================================

# Where red, green and blue lie: X, Y, Z of each as a column, seen by light of 5000 K, as profiles have them.
IN_SRGB = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
IN_P3 = np.array([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]])
GAMMA = 563 / 256


def fixed(*numbers):
    """As ICC writes them: 16 bits, a point, 16 bits."""
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def profile(name, places=None, space=b"RGB "):
    """An ICC profile, byte by byte: its header, a table of what is where, its name, the white, where each colour lies,
    and how numbers become light."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(GAMMA * 256))
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name.encode() + b"\0" * 80,
            b"cprt": b"text\0\0\0\0nobody\0", b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249)}
    if places is None:
        tags[b"kTRC"] = curve
    else:
        for i, letter in enumerate((b"r", b"g", b"b")):
            tags |= {letter + b"XYZ": b"XYZ \0\0\0\0" + fixed(*places[:, i]), letter + b"TRC": curve}
    table, data, start = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, body in tags.items():
        table += tag + struct.pack(">II", start + len(data), len(body))
        data += body + b"\0" * (-len(body) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(data), b"none", 0x02100000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + fixed(0.9642, 1.0, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


P3, GREY = profile("Display P3", IN_P3), profile("Dot Gain", space=b"GRAY")
COLOURS = np.array([[(200, 120, 60), (90, 140, 100), (60, 70, 160), (128, 128, 128)],
                    [(255, 0, 0), (0, 255, 0), (255, 255, 255), (0, 0, 0)]] * 2, dtype=np.uint8)


def as_a_screen_shows(colours):
    """The numbers in sRGB of colours whose numbers are in P3, by the definitions of both."""
    light = (colours / 255) ** GAMMA @ IN_P3.T @ np.linalg.inv(IN_SRGB).T
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("name", ["photo.png", "photo.tif", "photo.webp"])
def test_a_telephones_wide_colours_become_those_of_a_screen(tmp_path, name):
    """Display P3: its red is redder than sRGB's, so that the same numbers mean stronger colours. Greys stay grey."""
    Image.fromarray(COLOURS).save(tmp_path / name, icc_profile=P3, lossless=True)
    opened = pixels(open_picture(tmp_path / name))
    assert np.abs(opened - as_a_screen_shows(COLOURS)).max() <= 2
    assert np.abs(opened - COLOURS.astype(int)).max() > 8


def test_a_picture_in_srgb_stays_as_it_is_to_the_byte(tmp_path):
    """With a profile that says so, though by a curve that is a little different, and without one."""
    said, colours = profile("sRGB IEC61966-2.1", IN_SRGB), np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3)
    built = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, how in (("said.png", {"icc_profile": said}), ("built.png", {"icc_profile": built}), ("unsaid.png", {})):
        Image.fromarray(colours).save(tmp_path / name, **how)
        assert np.array_equal(pixels(open_picture(tmp_path / name)), colours), name


@pytest.mark.parametrize("mode, how", [
    ("RGBA", {}), ("P", {}), ("P", {"transparency": 0}), ("RGB", {"transparency": (255, 0, 0)})], ids=str)
def test_what_is_transparent_is_so_whatever_the_colours_mean(tmp_path, mode, how):
    """The second row begins with red; it is what is transparent, where anything is."""
    image, expected = Image.fromarray(COLOURS), as_a_screen_shows(COLOURS)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(np.where(np.arange(16).reshape(4, 4) % 8 == 4, 0, 255).astype("uint8")))
    if mode == "P":
        image = image.quantize(16, dither=Image.Dither.NONE)
        how = {"transparency": image.getpixel((0, 1))} if how else {}
    if how or mode == "RGBA":
        expected[1::2, 0] = 255
    image.save(tmp_path / "logo.png", icc_profile=P3, **how)
    assert np.abs(pixels(open_picture(tmp_path / "logo.png")) - expected).max() <= 2


def test_a_grey_picture_with_a_profile_of_greys_stays_grey_and_white_stays_white(tmp_path):
    Image.fromarray(strip(0, 64, 128, 255).astype("uint8")).save(tmp_path / "grey.png", icc_profile=GREY)
    opened = pixels(open_picture(tmp_path / "grey.png"))
    assert (opened == opened[:, :, :1]).all() and np.abs(opened[0, :, 0] - [0, 62, 128, 255]).max() <= 3


@pytest.mark.parametrize("mode, icc", [("RGB", b"garbage"), ("RGB", P3[:200]), ("L", P3), ("RGB", GREY)])
def test_a_colour_profile_that_cannot_be_used_is_said_and_the_picture_opens(tmp_path, capsys, mode, icc):
    """Broken, cut short, or of another kind of picture."""
    Image.fromarray(COLOURS).convert(mode).save(tmp_path / "odd.png", icc_profile=icc)
    expected = pixels(Image.fromarray(COLOURS).convert(mode).convert("RGB"))
    assert np.array_equal(pixels(open_picture(tmp_path / "odd.png")), expected)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "odd.png: its colour profile cannot be used" in lines[0]


# === what is no picture ===============================================================================================

def test_a_file_that_is_no_picture_is_named_and_the_others_load(tmp_path, capsys):
    """One bad file among a student's photos should cost that file, not the evening's training."""
    Image.new("RGB", (4, 4), RED).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_text("shopping list")
    Image.new("RGB", (4, 4), BLUE).save(tmp_path / "c.png")
    Image.new("RGB", (4, 4), GREEN).save(tmp_path / "d.NEF", "TIFF")
    Image.new("RGB", (4, 3), GREEN).save(tmp_path / "e.png")
    assert [image.getpixel((0, 0)) for image in load_pictures(tmp_path)] == [RED, BLUE]
    lines = capsys.readouterr().err.splitlines()
    for line, name, said in zip(lines, ("b.jpg", "d.NEF", "e.png"), ("not a picture", "raw file", "too small"),
                                strict=True):
        assert line.startswith("passed over: ") and name in line and said in line


@pytest.mark.parametrize("name", ["IMG_0001.HEIC", "photo.heif", "photo.jpg", "photo"])
@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"msf1"])
def test_a_telephones_heic_is_named_as_such_with_what_to_do(tmp_path, name, brand):
    """Also where a messenger has called it .jpg."""
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + b"\0" * 200)
    with pytest.raises(UserError, match=f"{name} is HEIC.*: save it as JPEG"):
        open_picture(tmp_path / name)


def test_a_jpeg_that_is_called_heic_opens(tmp_path):
    """What counts is what is in it."""
    upright().resize((40, 60)).save(tmp_path / "photo.heic", "JPEG")
    assert open_picture(tmp_path / "photo.heic").size == (40, 60)


@pytest.mark.parametrize("name", ["DSC_0001.NEF", "a.dng", "a.CR2", "a.arw", "a.orf", "a.raf", "a.rw2"])
def test_a_cameras_raw_file_is_named_as_such_with_what_to_do(tmp_path, name):
    """They are TIFFs by their beginning, and what Pillow would find there is a thumbnail."""
    Image.new("RGB", (160, 120), GREEN).save(tmp_path / name, "TIFF")
    with pytest.raises(UserError, match=f"{name} is a camera's raw file: export it as JPEG"):
        open_picture(tmp_path / name)


def broken_chunk():
    """A PNG whose second piece of data does not say any more what it is."""
    data = bytearray(bytes_of("PNG", side=200))
    at = data.rindex(b"IDAT")
    data[at:at + 4] = b"\1\2\3\4"
    return bytes(data)


BROKEN = {"half.jpg": bytes_of("JPEG")[:1500], "half.png": bytes_of("PNG")[:5000], "half.gif": bytes_of("GIF")[:2000],
          "half.webp": bytes_of("WEBP")[:1000], "half.tif": bytes_of("TIFF")[:5000], "half.bmp": bytes_of("BMP")[:5000],
          "head.png": bytes_of("PNG")[:40], "chunk.png": broken_chunk(), "empty.jpg": b""}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_picture_is_named(tmp_path, name):
    """A download that was cut short, a card that is failing: one line with the file's name, no traceback."""
    (tmp_path / name).write_bytes(BROKEN[name])
    with pytest.raises(UserError) as error:
        open_picture(tmp_path / name)
    assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_a_picture_too_large_to_open_is_named(tmp_path, monkeypatch):
    """Pillow refuses what would fill the memory when it is unpacked: a kilobyte of PNG can be a gigabyte of white."""
    Image.new("L", (40, 20)).save(tmp_path / "poster.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="poster.png"):
        open_picture(tmp_path / "poster.png")


def test_a_picture_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.png"):
        open_picture(tmp_path / "nowhere.png")


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\xff" * 30])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nonsense_in_exif_does_not_keep_a_photo_from_opening(tmp_path, exif):
    Image.new("RGB", (8, 4), RED).save(tmp_path / "odd.jpg", exif=exif)
    assert np.abs(pixels(open_picture(tmp_path / "odd.jpg")) - RED).max() <= 2


# === folders ==========================================================================================================

def test_pictures_come_in_the_order_of_their_names_and_hidden_files_are_no_pictures(tmp_path, capsys):
    for name, colour in (("c.png", BLUE), ("a.png", RED), ("b.png", GREEN), (".hidden.png", WHITE)):
        Image.new("RGB", (4, 4), colour).save(tmp_path / name)
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "d.png").mkdir()
    assert [image.getpixel((0, 0)) for image in load_pictures(tmp_path)] == [RED, GREEN, BLUE]
    assert capsys.readouterr().err == ""


def test_a_folder_without_pictures_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no pictures in .*put photos"):
        load_pictures(tmp_path)
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match="no pictures in"):
        load_pictures(tmp_path)


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for name in ("nowhere", "file"):
        with pytest.raises(UserError, match=f"{name} is no folder"):
            load_pictures(tmp_path / name)


def test_photos_that_must_be_enlarged_are_said_once(capsys):
    photos = [Image.new("RGB", size) for size in ((64, 64), (200, 63), (40, 90))]
    warn_of_small(photos, 64)
    said = capsys.readouterr().err
    assert said.startswith("2 of 3 photos are smaller than 64 pixels, the smallest 40") and said.count("\n") == 1
    warn_of_small(photos, 40)
    assert capsys.readouterr().err == ""


# === many on one sheet, and to a file =================================================================================

def test_on_a_sheet_every_picture_has_its_place_and_half_a_cell_stays_free_for_none():
    """Small pictures are doubled: here a cell is 16 pixels, and the gaps are 2."""
    red, blue, green = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE, GREEN)]
    paper = sheet([("", [red, None, blue]), ("", [green])])
    assert paper.size == (2 + 16 + 2 + 8 + 16 + 2, 2 + 16 + 2 + 16 + 2)
    places = {(10, 10): RED, (24, 10): WHITE, (36, 10): BLUE, (10, 28): GREEN, (36, 28): WHITE}
    assert {place: paper.getpixel(place) for place in places} == places
    assert sheet([("a line of text", [red])]).height > sheet([("", [red])]).height


def test_stacked_pictures_stand_one_below_another():
    paper = stack([Image.new("RGB", (2, 3), RED), Image.new("RGB", (5, 1), BLUE)])
    assert paper.size == (5, 4)
    assert [paper.getpixel(place) for place in ((1, 2), (4, 2), (4, 3))] == [RED, WHITE, BLUE]


def test_a_picture_that_cannot_be_saved_leaves_the_earlier_one_whole(tmp_path):
    class Unlucky:
        def save(self, path):
            path.write_bytes(bytes_of("PNG")[:500])
            raise OSError("No space left on device")

    save_picture(Image.new("RGB", (4, 4), RED), tmp_path / "a.png")
    with pytest.raises(UserError, match="a.png could not be written.*No space left"):
        save_picture(Unlucky(), tmp_path / "a.png")
    assert open_picture(tmp_path / "a.png").getpixel((0, 0)) == RED
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_picture_that_its_kind_of_file_cannot_hold_is_one_line(tmp_path):
    """A JPEG has 65,500 pixels to a side at most."""
    with pytest.raises(UserError, match="wide.jpg could not be written") as error:
        save_picture(Image.new("RGB", (66_000, 4)), tmp_path / "deep" / "wide.jpg")
    assert "\n" not in str(error.value) and list((tmp_path / "deep").iterdir()) == []
