"""Files: whole or not there, and what is read from outside checked where it enters."""
import errno
import json
import os
import struct
from pathlib import Path

import pytest
import torch
from conftest import failing_open, locked
from safetensors.torch import load_file, save_file

from files import (UserError, beside, check_place, check_weights, claim, file_name, load_metadata, load_tensors,
                   read_json, read_metadata, remove, replace_folder, save_tensors, save_text, shown)
from pictures import open_picture

FULL = OSError(errno.ENOSPC, "No space left on device")


# === foreign text =====================================================================================================

@pytest.mark.parametrize("text, expected", [
    ("Zürich, 日本 🙂", "Zürich, 日本 🙂"), ("a\nb\r\x1b[31m\0", r"a\nb\r\x1b[31m\x00"), (None, "None"),
    ("right to \u202e left", r"right to \u202e left"), ("x" * 81, "x" * 80 + "..."), ("x" * 80, "x" * 80)], ids=ascii)
def test_foreign_text_is_shown_in_one_line_that_no_terminal_obeys(text, expected):
    assert shown(text) == expected


@pytest.mark.parametrize("word, name", [("<it>", "it"), ("<my cat!>", "my_cat_"), ("<cat-toy>", "cat-toy"),
                                        ("<../../x>", "______x"), ("<~/a\\b:c>", "__a_b_c"), ("<Käse>", "Käse")])
def test_a_word_becomes_the_name_of_a_file_in_the_same_folder(word, name):
    assert file_name(word) == name == Path(name).name


# === a file is whole or not there =====================================================================================

def test_what_is_written_has_its_place_at_the_end_and_nothing_beside_it(tmp_path):
    path = tmp_path / "deep" / "er" / "a.txt"
    save_text("Zürich\n", path)
    with beside(path) as place:
        place.write_text("new")
        assert path.read_text("utf-8") == "Zürich\n" and place.suffix == ".txt" and place.parent == path.parent
    assert path.read_text() == "new" and [p.name for p in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error, seen, said", [
    (FULL, UserError, "a.txt could not be written: .*No space"), (KeyboardInterrupt(), KeyboardInterrupt, None),
    (ValueError("no such picture"), UserError, "a.txt could not be written: no such picture")], ids=repr)
def test_what_cannot_be_written_leaves_the_earlier_file_whole(tmp_path, error, seen, said):
    """The disk fills up, or Ctrl-C, in the middle of a file."""
    path = tmp_path / "a.txt"
    save_text("old", path)
    with pytest.raises(seen, match=said):
        with beside(path) as place:
            place.write_text("ha")
            raise error
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error, seen, said", [
    (FULL, UserError, "lora.safetensors could not be written.*No space"),
    (KeyboardInterrupt(), KeyboardInterrupt, None)], ids=repr)
def test_tensors_replace_a_file_as_a_whole_or_not_at_all(tmp_path, monkeypatch, error, seen, said):
    path = tmp_path / "lora.safetensors"
    save_tensors({"a": torch.zeros(3)}, path)
    monkeypatch.setattr("files.open", failing_open(1, error), raising=False)
    with pytest.raises(seen, match=said):
        save_tensors({"a": torch.ones(3)}, path)
    assert [p.name for p in tmp_path.iterdir()] == ["lora.safetensors"]
    assert load_file(path)["a"].abs().max() == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_disk_that_is_really_full_is_said(tmp_path):
    """The place beside leads there."""
    (tmp_path / "a.partial.safetensors").symlink_to("/dev/full")
    with pytest.raises(UserError, match="a.safetensors could not be written.*No space left"):
        save_tensors({"a": torch.ones(3)}, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for write in (lambda path: save_tensors({"a": torch.zeros(3)}, path), lambda path: save_text("x", path)):
        with pytest.raises(UserError, match="a.safetensors could not be written"):
            write(tmp_path / "file" / "a.safetensors")
    assert (tmp_path / "file").read_text() == "no folder"


# === tensors ==========================================================================================================

DTYPES = (torch.bool, torch.float16, torch.float64, torch.uint8, torch.float32, torch.int64, torch.bfloat16,
          torch.int32)


def header(path):
    """A safetensors file's header, which is JSON, and how long it is."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + length]), length


def test_tensors_and_what_is_said_beside_them_come_back(tmp_path):
    """Of every type and shape, with any names; also by safetensors' own code."""
    path, g = tmp_path / "deep" / "a.safetensors", torch.Generator().manual_seed(0)
    tensors = {f"<{dtype}> ü\n": (100 * torch.randn(3, 5, generator=g)).to(dtype) for dtype in DTYPES}
    tensors |= {"transposed": torch.arange(6.0).view(2, 3).T, "every second": torch.arange(9)[::2],
                "one": torch.tensor(7.0), "none": torch.zeros(0, 3), "view": torch.arange(8.0)[5:],
                "expanded": torch.ones(1, 3).expand(4, 3), "trained": torch.nn.Parameter(torch.ones(2))}
    save_tensors(tensors, path, {"about": '{"ü": 1}'})
    for back in (load_tensors(path), load_file(path)):
        assert back.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor), name
    assert load_metadata(path) == {"format": "pt", "about": '{"ü": 1}'}
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


def test_a_file_of_tensors_can_be_mapped_into_memory(tmp_path):
    """Every tensor begins at a multiple of its numbers' size, counted from the file's beginning too, and there are no
    holes; so other tools may use the bytes where they lie."""
    save_tensors({f"{i} {dtype}": torch.ones(i, dtype=dtype) for i in (3, 1) for dtype in DTYPES}, tmp_path / "a")
    places, length = header(tmp_path / "a")
    assert length % 8 == 0 and places.pop("__metadata__") == {"format": "pt"}
    spans = sorted(entry["data_offsets"] for entry in places.values())
    assert spans[0][0] == 0 and all(a[1] == b[0] for a, b in zip(spans, spans[1:]))
    assert 8 + length + spans[-1][1] == (tmp_path / "a").stat().st_size
    for name, entry in places.items():
        assert entry["data_offsets"][0] % torch.ones(1, dtype=getattr(torch, name.split(".")[1])).itemsize == 0


def test_half_the_size_is_in_half_precision_and_whole_numbers_stay(tmp_path):
    tensors = {"a": torch.randn(4, 5), "ids": torch.tensor([70_000]), "half": torch.ones(2, dtype=torch.bfloat16)}
    save_tensors(tensors, tmp_path / "a.safetensors", half=True)
    back = load_file(tmp_path / "a.safetensors")
    assert torch.equal(back["a"], tensors["a"].half()) and back["half"].dtype == torch.float16
    assert torch.equal(back["ids"], tensors["ids"])


@pytest.mark.parametrize("value, half", [("nan", False), ("inf", False), ("-inf", True), ("1e5", True)])
def test_what_is_not_finite_is_not_written(tmp_path, value, half):
    """A training that has gone wrong must not cost the file of yesterday. 100,000 is infinite in half precision."""
    path = tmp_path / "a.safetensors"
    save_tensors({"unet.weight": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="a.safetensors was not written: unet.weight is not finite"):
        save_tensors({"fine": torch.ones(2), "unet.weight": torch.tensor([1.0, float(value)])}, path, half=half)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"] and load_file(path)["unet.weight"].abs().max() == 0


# === what is read =====================================================================================================

@pytest.mark.parametrize("name, said", [
    ("a.pt", "is a pickle"), ("a.ckpt", "is a pickle"), ("a.bin", "is a pickle"), ("none.safetensors", "no such file"),
    ("folder.safetensors", "is no file"), ("cut.safetensors", "damaged or cut short.*: fetch it again"),
    ("empty.safetensors", "damaged or cut short.*: fetch it again"), ("huge.safetensors", "damaged or cut short"),
    ("pointer.safetensors", "git's pointer.*git lfs pull")])
def test_a_file_of_tensors_that_cannot_be_read_is_named_with_what_to_do(tmp_path, name, said):
    (tmp_path / "a.pt").write_bytes(b"\x80\x02}q\x00.")
    (tmp_path / "cut.safetensors").write_bytes(b"\x80\x00\x00")
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "huge.safetensors").write_bytes(struct.pack("<Q", 2 ** 62) + b"{}")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    for read in (load_tensors, load_metadata):
        with pytest.raises(UserError, match=f"{name}.*{said}") as error:
            read(tmp_path / name, ": fetch it again")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("read", [load_tensors, load_metadata, read_json, open_picture])
def test_a_pipe_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is no file"):
        read(tmp_path / "pipe")


@pytest.mark.parametrize("body", [
    b"", b"{", b"not json", b"\xff\xfe{\0}\0", b"[1, 2]", b"null",
    b"[" * 100_000, b'{"a":' * 100_000, b'{"a": 1' + b"0" * 10_000 + b"}", b'"' + b"x" * 10_000 + b'"'],
    ids=lambda body: repr(body[:12]))
def test_a_file_that_holds_no_settings_is_named_in_one_short_line(tmp_path, body):
    (tmp_path / "config.json").write_bytes(body)
    with pytest.raises(UserError, match="config.json .*fetch it again") as error:
        read_json(tmp_path / "config.json")
    assert "\n" not in str(error.value) and len(str(error.value)) < 250 + len(str(tmp_path))


def test_settings_come_back_and_a_file_or_folder_that_is_none_is_named(tmp_path):
    for start in ("", "\ufeff"):  # as some editors on Windows write it
        save_text(start + '{"ü": [1, null]}', tmp_path / "config.json")
        assert read_json(tmp_path / "config.json") == {"ü": [1, None]}
    for place, said in ((tmp_path, "is no file"), (tmp_path / "nowhere", "there is no such file")):
        with pytest.raises(UserError, match=said):
            read_json(place)


def test_what_is_said_beside_tensors_is_json(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a", {"one": '{"x": 1}', "bad": "{", "deep": "[" * 100_000})
    assert read_metadata(tmp_path / "a", "one") == {"x": 1} and read_metadata(tmp_path / "a", "not there") == {}
    for name in ("bad", "deep"):
        with pytest.raises(UserError, match=f"a says .*{name}.* cannot be read: fetch it again"):
            read_metadata(tmp_path / "a", name, ": fetch it again")


def test_weights_are_finite_numbers_with_a_point():
    check_weights({"a": torch.zeros(2), "b": torch.zeros(2, dtype=torch.bfloat16)}, "here")
    for tensor, said in ((torch.zeros(2).long(), "floating point"), (torch.tensor([True]), "floating point"),
                         (torch.tensor([1.0, float("nan")]), "not finite"), (torch.tensor(float("inf")), "not finite")):
        with pytest.raises(UserError, match=rf"here: b\\n .*{said}"):
            check_weights({"a": torch.zeros(2), "b\n": tensor}, "here")


# === this run's folder ================================================================================================

def test_a_folder_in_which_another_run_is_at_work_is_refused_until_it_has_ended(tmp_path):
    """And nothing of that run's is cleared away."""
    other = locked(tmp_path / "out")
    (tmp_path / "out" / "a.partial.png").touch()
    with pytest.raises(UserError, match="--out .*out: another run is at work there"):
        claim(tmp_path / "out")
    assert (tmp_path / "out" / "a.partial.png").exists()
    other.close()
    claim(tmp_path / "out")
    with pytest.raises(BlockingIOError):
        locked(tmp_path / "out")
    claim(str(tmp_path / "x" / ".." / "out"))  # the same one, by the same process


def test_what_an_earlier_run_left_half_written_is_cleared_away(tmp_path):
    """And a model that was on its way is back: the run was killed between two renames."""
    out = tmp_path / "out"
    for name in (".lock", "model.partial/unet/a.safetensors", "state.partial.safetensors",
                 "theta/x.partial.safetensors", "model.replaced/model_index.json", "state.safetensors"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(name)
    claim(out)
    left = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    assert left == [".lock", "model/model_index.json", "state.safetensors"]
    assert (out / "model" / "model_index.json").read_text() == "model.replaced/model_index.json"


def test_in_a_folder_that_no_run_has_had_nothing_is_cleared_away(tmp_path):
    """Somebody's own files may have such names."""
    for name in ("thesis.partial.doc", "photos.replaced"):
        (tmp_path / name).write_text(name)
    claim(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "photos.replaced", "thesis.partial.doc"]


def test_an_earlier_model_does_not_take_the_place_of_a_later_one(tmp_path):
    (tmp_path / ".lock").touch()
    for name in ("model", "model.replaced", "model.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_index.json").write_text(name)
    claim(tmp_path)
    assert (tmp_path / "model" / "model_index.json").read_text() == "model"
    assert (tmp_path / "model.old" / "model_index.json").exists(), "somebody's own copy"


@pytest.mark.parametrize("name", ["file", "file/out"])
def test_an_out_that_can_be_no_folder_is_one_line(tmp_path, name):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="--out .*file.* cannot be made") as error:
        claim(tmp_path / name)
    assert "\n" not in str(error.value) and (tmp_path / "file").read_text() == "no folder"


def test_only_a_model_is_replaced_by_a_model(tmp_path):
    check_place(tmp_path / "nothing")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("three years")
    (tmp_path / "file").write_text("no folder")
    for name in ("model", "file"):
        with pytest.raises(UserError, match=f"{name} is there and is no model: move it away"):
            check_place(tmp_path / name)
    (tmp_path / "model" / "model_index.json").write_text("{}")
    check_place(tmp_path / "model")


# === a folder as a whole ==============================================================================================

def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    """The earlier one stays until the new one is whole, and leftovers of a killed run do not get into it."""
    for name in ("model/a", "model/b", "model.partial/c", "model.replaced/d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    with replace_folder(tmp_path / "model") as new:
        assert list(new.iterdir()) == [] and tree(tmp_path / "model") == {"a": "old", "b": "old"}
        (new / "a").write_text("new")
    assert tree(tmp_path) == {"model/a": "new"}


@pytest.mark.parametrize("error, seen", [(FULL, UserError), (UserError("lower --lr"), UserError),
                                         (KeyboardInterrupt(), KeyboardInterrupt)], ids=repr)
def test_a_folder_that_is_not_finished_leaves_the_earlier_one_whole(tmp_path, error, seen):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("old")
    for name in ("model", "deep/other"):
        with pytest.raises(seen):
            with replace_folder(tmp_path / name) as new:
                (new / "a").write_text("ne")
                raise error
    assert tree(tmp_path) == {"model/a": "old"} and not list(tmp_path.rglob("*.partial"))


def test_behind_a_link_the_folder_itself_is_replaced(tmp_path):
    """runs/model may lead to a larger disk."""
    (tmp_path / "disk" / "model").mkdir(parents=True)
    (tmp_path / "disk" / "model" / "a").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "model")
    with replace_folder(tmp_path / "link") as new:
        (new / "b").write_text("new")
    assert (tmp_path / "link").is_symlink() and tree(tmp_path / "disk") == {"model/b": "new"}


def test_a_folder_in_an_impossible_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="model could not be written"):
        with replace_folder(tmp_path / "file" / "model"):
            pass
    assert tree(tmp_path) == {"file": "no folder"}


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for name in ("link", "nowhere"):
        remove(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"] and (tmp_path / "folder" / "deep" / "file").exists()
    remove(tmp_path / "folder" / "deep" / "file")
    assert (tmp_path / "folder" / "deep").exists()
    remove(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []
