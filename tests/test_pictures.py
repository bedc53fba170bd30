"""Pictures as people have them: rotated, transparent, grey, 16 bits, broken. `open_picture` makes them upright RGB."""
import io

import numpy as np
import pytest
import torch
from PIL import Image

from command import UserError
from pictures import load_pictures, open_picture, save_picture, sheet, square, stack, to_images, to_tensor

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def pixels(image):
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def upright():
    """2 wide, 3 high, every pixel different."""
    return Image.fromarray(np.arange(18, dtype=np.uint8).reshape(3, 2, 3) * 14)


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
    assert opened.size == (2, 3)
    assert np.abs(pixels(opened) - pixels(upright())).max() == 0


def test_what_is_transparent_becomes_white(tmp_path):
    image = Image.new("RGBA", (3, 1), RED)
    image.putalpha(Image.fromarray(np.array([[0, 128, 255]], dtype=np.uint8)))
    image.save(tmp_path / "logo.png")
    assert np.abs(pixels(open_picture(tmp_path / "logo.png"))[0] - [WHITE, (255, 127, 127), RED]).max() <= 1


@pytest.mark.parametrize("name", ["palette.png", "palette.gif"])
def test_the_transparent_colour_of_a_palette_becomes_white(tmp_path, name):
    image = Image.new("P", (3, 1))
    image.putpalette([*BLUE, *RED, *GREEN])
    image.putdata([0, 1, 2])
    image.save(tmp_path / name, transparency=1)
    assert pixels(open_picture(tmp_path / name))[0].tolist() == [list(BLUE), list(WHITE), list(GREEN)]


@pytest.mark.parametrize("mode, colour, transparency", [("RGB", RED, RED), ("L", 7, 7), ("1", 0, 0)])
def test_a_colour_declared_transparent_becomes_white(tmp_path, mode, colour, transparency):
    Image.new(mode, (2, 2), colour).save(tmp_path / "one.png", transparency=transparency)
    assert (pixels(open_picture(tmp_path / "one.png")) == 255).all()


def test_a_palette_with_alpha_by_entry_is_laid_on_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putdata([0, 1])
    image.save(tmp_path / "soft.png", transparency=bytes([255, 128]))
    assert np.abs(pixels(open_picture(tmp_path / "soft.png"))[0] - [RED, (127, 255, 127)]).max() <= 1


@pytest.mark.parametrize("mode, value, expected", [
    ("L", 100, (100, 100, 100)), ("LA", (100, 255), (100, 100, 100)), ("LA", (100, 0), WHITE), ("RGB", RED, RED)])
def test_grey_keeps_its_brightness(tmp_path, mode, value, expected):
    Image.new(mode, (2, 3), value).save(tmp_path / "grey.png")
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
    values = np.array([[0, 257, 32_896, 65_535]])
    mode = {"<u2": "I;16", ">u2": "I;16B"}[kind]
    Image.frombytes(mode, (4, 1), values.astype(kind).tobytes()).save(tmp_path / name)
    assert np.abs(pixels(open_picture(tmp_path / name))[0, :, 0] - [0, 1, 128, 255]).max() <= 1


def test_a_dark_picture_of_sixteen_bits_stays_dark(tmp_path):
    """A night sky, all of its values below 256 of 65,535: the file says 16 bits, so black it is."""
    Image.fromarray(np.array([[0, 100, 255]], dtype=np.uint16)).save(tmp_path / "night.png")
    assert pixels(open_picture(tmp_path / "night.png")).max() <= 1


def test_black_and_white_has_two_colours(tmp_path):
    Image.fromarray(np.array([[True, False, True]])).save(tmp_path / "fax.png")
    assert pixels(open_picture(tmp_path / "fax.png"))[0].tolist() == [[255] * 3, [0] * 3, [255] * 3]


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000)])
def test_a_picture_of_any_shape_opens(tmp_path, size):
    Image.new("RGB", size, GREEN).save(tmp_path / "shape.png")
    image = open_picture(tmp_path / "shape.png")
    assert image.size == size and (pixels(image) == GREEN).all()


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


# === what is no picture ===============================================================================================

def test_a_file_that_is_no_picture_is_named_and_the_others_load(tmp_path, capsys):
    """One bad file among a student's photos should cost that file, not the evening's training."""
    Image.new("RGB", (2, 2), RED).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_text("shopping list")
    Image.new("RGB", (2, 2), BLUE).save(tmp_path / "c.png")
    assert [image.getpixel((0, 0)) for image in load_pictures(tmp_path)] == [RED, BLUE]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "b.jpg" in lines[0] and "not a picture" in lines[0]


@pytest.mark.parametrize("name", ["IMG_0001.HEIC", "photo.heif"])
@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_a_telephones_heic_is_named_as_such_with_what_to_do(tmp_path, name, brand):
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + b"\0" * 200)
    with pytest.raises(UserError, match=f"{name} is HEIC: save it as JPEG"):
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
    Image.new("RGB", (4, 2), RED).save(tmp_path / "odd.jpg", exif=exif)
    assert np.abs(pixels(open_picture(tmp_path / "odd.jpg")) - RED).max() <= 2


# === folders ==========================================================================================================

def test_pictures_come_in_the_order_of_their_names_and_hidden_files_are_no_pictures(tmp_path, capsys):
    for name, colour in (("c.png", BLUE), ("a.png", RED), ("b.png", GREEN), (".hidden.png", WHITE)):
        Image.new("RGB", (2, 2), colour).save(tmp_path / name)
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

    save_picture(Image.new("RGB", (2, 2), RED), tmp_path / "a.png")
    with pytest.raises(OSError, match="No space left"):
        save_picture(Unlucky(), tmp_path / "a.png")
    assert open_picture(tmp_path / "a.png").getpixel((0, 0)) == RED
