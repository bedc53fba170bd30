"""Pictures as people have them, and as networks want them: open, square, to numbers and back, and
many on one sheet.

Nobody came to read this either (see command.py). Pictures are PIL images; tensors of them are
(b, 3, y, x) in [-1, 1].
"""
import io
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from files import UserError, beside, check_file, shown


# === from files ===================================================================================

RAW = (".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw")
HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevm", b"mif1", b"msf1")


def open_picture(path):
    """One picture as people have them (rotated by EXIF, with a colour profile, transparent,
    palette, grey, CMYK, 16 bits) as an upright RGB image, in sRGB."""
    path = Path(path)
    check_file(path)
    if path.suffix.lower() in RAW:  # Pillow would open the thumbnail in it
        raise UserError(f"{path} is a camera's raw file: export it as JPEG first")
    try:
        with open(path, "rb") as file:
            head = file.read(12)
        heic = head[4:8] == b"ftyp" and head[8:] in HEIC
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            image.load()
    except UnidentifiedImageError:
        kind = "HEIC, whatever its name: save it as JPEG first"
        raise UserError(f"{path} is {kind if heic else 'not a picture Pillow can read'}") from None
    except Exception as error:  # a broken file can make its decoder raise anything
        raise UserError(f"{path} cannot be read: {shown(error)}") from None
    if min(image.size) < 4:
        raise UserError(f"{path} is {image.width} x {image.height} pixels: too small to show "
                        "anything")
    if image.mode.startswith("I") or image.mode == "F":  # 16 or 32 bits: Pillow would clip them
        grey = np.asarray(image).astype("float32")
        white = 65535 if image.mode.startswith("I;16") or grey.max() > 255 else 255
        image = Image.fromarray((grey * (255 / white)).round().clip(0, 255).astype("uint8"))
    image = to_srgb(image, path)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def to_srgb(image, path):
    """An iPhone's colours are Display P3, a print's are those of its inks: the numbers mean other
    colours there than on a screen."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(profile):
            return image
        if image.mode == "P" or "transparency" in image.info:
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        if image.mode == "LA":
            return image
        mode, srgb = "RGBA" if image.mode == "RGBA" else "RGB", ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, profile, srgb, outputMode=mode)
    except (ImageCms.PyCMSError, OSError) as error:
        print(f"{path}: its colour profile cannot be used ({error})", file=sys.stderr)
        return image


def load_pictures(folder, most=None):
    """All pictures of a folder by name, or the first `most`. A file that is none is named on stderr
    and passed over; no picture at all is an error."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--images {folder} is no folder")
    pictures = []
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        if len(pictures) == most:
            break
        try:
            pictures.append(open_picture(path))
        except UserError as error:
            print(f"passed over: {error}", file=sys.stderr)
    if not pictures:
        raise UserError(f"no pictures in {folder}: put photos of the subject there")
    return pictures


def warn_of_small(photos, size):
    """Says once if photos have to be enlarged to be learned from."""
    small = [photo for photo in photos if min(photo.size) < size]
    if small:
        print(f"{len(small)} of {len(photos)} photos are smaller than {size} pixels, the smallest "
              f"{min(min(photo.size) for photo in small)}: enlarged, they teach softness too",
              file=sys.stderr)


# === to numbers and back ==========================================================================

def square(photo, size, generator=None):
    """Shorter side to `size`, then the square in the middle, or with a generator a square
    anywhere."""
    scale = size / min(photo.size)
    sides = [max(size, round(side * scale)) for side in photo.size]
    photo = photo.resize(sides, Image.Resampling.LANCZOS)
    room = [side - size for side in photo.size]
    if generator:
        left, top = [int(torch.randint(r + 1, (1,), generator=generator)) for r in room]
    else:
        left, top = [r // 2 for r in room]
    return photo.crop((left, top, left + size, top + size))


def to_tensor(image):
    """PIL RGB -> (3, y, x) in [-1, 1]."""
    x = torch.from_numpy(np.array(image))                            # (y, x, 3), a copy
    return x.permute(2, 0, 1).float() / 127.5 - 1


def to_images(x):
    """(b, 3, y, x), about [-1, 1] -> list of PIL RGB."""
    x = ((x.float() / 2 + 0.5).clamp(0, 1) * 255).round().byte()
    return [Image.fromarray(a) for a in x.permute(0, 2, 3, 1).contiguous().cpu().numpy()]


# === many on one sheet ============================================================================

def sheet(rows, cell=None):
    """Rows of pictures with a line of text above each, as one picture. rows: (text, [PIL image or
    None, ...]); None leaves half a cell free. cell: side of a picture on the sheet; small pictures
    are doubled, large ones reduced."""
    side = max(picture.width for _, pictures in rows for picture in pictures if picture)
    cell = cell or (2 * side if side <= 96 else min(side, 256))
    font, gap = ImageFont.load_default(max(11, cell // 9)), max(2, cell // 32)
    line = font.getbbox("Ag")[3] + 2 * gap
    places, width, y = [], 0, gap
    for text, pictures in rows:
        places.append(((gap, y), text))
        x, y = gap, y + (line if text else 0)
        for picture in pictures:
            if picture:
                places.append(((x, y), picture.resize((cell, cell), Image.Resampling.LANCZOS)))
            x += cell + gap if picture else cell // 2
        width, y = max(width, x), y + cell + gap
    paper = Image.new("RGB", (width, y), "white")
    for place, thing in places:
        if isinstance(thing, str):
            ImageDraw.Draw(paper).text(place, thing, "black", font)
        else:
            paper.paste(thing, place)
    return paper


def stack(images):
    """One below another."""
    width, height = max(image.width for image in images), sum(image.height for image in images)
    paper = Image.new("RGB", (width, height), "white")
    top = 0
    for image in images:
        paper.paste(image, (0, top))
        top += image.height
    return paper


def save_picture(image, path):
    """A file that is whole or not there: written beside, then renamed."""
    with beside(path) as place:
        image.save(place)
