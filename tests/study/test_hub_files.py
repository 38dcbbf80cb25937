"""Repositories of the Hub and their cache, against a real server: what is fetched, what is damaged, what is said."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import huggingface_hub.constants as constants
import pytest

from synthmix.errors import StoreError, UserError
from synthmix.study import hub_files
from synthmix.study.hub_files import Keeper, Repository, Unreachable, ask, cached, hub_errors, small_names, weights_name

from .hub import Hub, serve
from .hub import Repository as Served

FILES = {"config.json": b'{"model_type": "x"}', "model.safetensors": bytes(range(256)) * 300, "README.md": b"# x\n"}
WEIGHTS = "model.safetensors"


class Place(NamedTuple):
    hub: Hub
    repository: Repository
    said: list[str]

    def keeper(self) -> Keeper:
        return Keeper(self.repository, ask(self.repository), self.said.append)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A server with one model, and an empty cache, where the Hub's client looks."""
    with serve({"models/lab/wee": Served(FILES, ("main", "step7"))}) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield Place(hub, Repository("lab/wee", "step7", "configs/model/wee.yaml"), [])


def test_the_files_are_there_and_whole_and_a_second_time_nothing_is_sent(place: Place) -> None:
    keeper = place.keeper()
    files = keeper.secure(["config.json", WEIGHTS])
    assert [(file.name, file.bytes, len(file.digest)) for file in files] == [
        ("config.json", 19, 40),
        (WEIGHTS, 76800, 64),
    ]
    path = cached(place.repository, keeper.listing.commit, WEIGHTS)
    assert path is not None and path.read_bytes() == FILES[WEIGHTS]
    assert [name for name, _ in place.hub.bodies] == ["config.json", WEIGHTS]
    place.hub.bodies.clear()
    place.said.clear()
    assert place.keeper().secure(["config.json", WEIGHTS]) == files
    assert place.hub.bodies == [] and place.said == []


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_a_damaged_file_is_named_removed_and_fetched_again(place: Place, name: str) -> None:
    keeper = place.keeper()
    keeper.secure(list(FILES))
    path = cached(place.repository, keeper.listing.commit, name)
    assert path is not None
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.resolve().write_bytes(content)
    place.hub.bodies.clear()
    keeper.secure(list(FILES))
    assert path.read_bytes() == FILES[name]
    assert place.hub.bodies == [(name, 0)], "the others were whole"
    assert place.said[-2] == f"lab/wee: {name} is damaged in the cache; removed: {path}"


def test_a_file_that_arrives_damaged_twice_is_an_error_and_is_not_kept(place: Place) -> None:
    place.hub.garbled.add(WEIGHTS)
    keeper = place.keeper()
    with pytest.raises(UserError, match=r"wee.yaml: id = 'lab/wee', revision = 'step7': model.safetensors arrived dam"):
        keeper.secure([WEIGHTS])
    assert place.hub.bodies == [(WEIGHTS, 0)] * 2
    assert cached(place.repository, keeper.listing.commit, WEIGHTS) is None
    place.hub.garbled.clear()
    assert keeper.secure([WEIGHTS])


def test_a_download_that_is_cut_goes_on_where_it_was(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # 10 MB: more than the file has
    place.hub.cuts[WEIGHTS] = 50_000
    keeper = place.keeper()
    keeper.secure([WEIGHTS])
    path = cached(place.repository, keeper.listing.commit, WEIGHTS)
    assert path is not None and path.read_bytes() == FILES[WEIGHTS]
    (_, first), (_, second) = place.hub.bodies
    assert first == 0 and 40_000 < second <= 50_000


def test_too_little_room_is_found_before_anything_is_sent(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10_000))
    with pytest.raises(UserError, match=r"wee.yaml.*75.0 KiB to download, but .*cache has 9.8 KiB free; make room"):
        place.keeper().secure([WEIGHTS])
    assert place.hub.bodies == []


@pytest.mark.parametrize(
    ("repository", "expected"),
    [
        (Repository("lab/woe", None, "here"), r"here: id = 'lab/woe': http.* has no such model, or it is private"),
        (
            Repository("lab/wee", "step8", "here"),
            r"id = 'lab/wee', revision = 'step8': the repository has no such revision",
        ),
        (
            Repository("lab/shut", None, "here"),
            r"here: id = 'lab/shut': access is restricted; accept its terms on http",
        ),
        (Repository("a/b/c", None, "here"), r"here: id = 'a/b/c': not the name of a repository"),
        (Repository("lab/set", None, "task x", "dataset"), r"task x: id = 'lab/set': .* has no such dataset"),
    ],
)
def test_what_the_hub_refuses_is_said_with_the_key(place: Place, repository: Repository, expected: str) -> None:
    place.hub.repositories["models/lab/shut"] = Served(FILES, gated=True)
    with pytest.raises(UserError, match=expected) as raised:
        ask(repository)
    assert not isinstance(raised.value, Unreachable)


def test_a_server_that_is_down_and_a_client_that_is_offline(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Unreachable, match="HF_HUB_OFFLINE is set, so nothing is downloaded; unset it"):
        ask(place.repository)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unreachable, match=r"http://127.0.0.1:9 cannot be reached \(ConnectError.*login node"):
        ask(place.repository)


def test_a_full_disk_is_no_missing_network(place: Place) -> None:
    with pytest.raises(StoreError, match="no space left on the disk"), hub_errors(place.repository):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_name_that_moves_to_another_commit_brings_the_new_files(place: Place) -> None:
    place.keeper().secure(list(FILES))
    place.hub.repositories["models/lab/wee"] = Served(FILES | {"config.json": b"{}"}, ("main", "step7"))
    place.hub.bodies.clear()
    keeper = place.keeper()
    keeper.secure(list(FILES))
    assert [name for name, _ in place.hub.bodies] == ["config.json"], "the weights are the same content"
    path = cached(place.repository, keeper.listing.commit, "config.json")
    assert path is not None and path.read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("names", "weights", "small"),
    [
        (
            ["README.md", "config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5", "tokenizer.json"],
            "model.safetensors",
            ["config.json", "tokenizer.json"],
        ),
        (
            ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "vocab.txt",
             "model.safetensors.index.json", "pytorch_model.bin.index.json", "onnx/config.json"],
            "model.safetensors.index.json",
            ["config.json", "model.safetensors.index.json", "vocab.txt"],
        ),
        (["config.json", "pytorch_model.bin", "logs/a.json"], "pytorch_model.bin", ["config.json"]),
        (
            ["config.json", "pytorch_model.bin.index.json", "spiece.model", "additional_chat_templates/a.jinja"],
            "pytorch_model.bin.index.json",
            ["additional_chat_templates/a.jinja", "config.json", "pytorch_model.bin.index.json", "spiece.model"],
        ),
    ],
)  # fmt: skip
def test_only_the_files_that_loading_reads_are_chosen(names: list[str], weights: str, small: list[str]) -> None:
    assert weights_name(Repository("lab/wee", None, "here"), names) == weights
    assert small_names(names, weights) == small


def test_a_repository_without_weights_says_what_it_has() -> None:
    with pytest.raises(UserError, match=r"no weights that can be loaded .*; it has README.md, x.gguf"):
        weights_name(Repository("lab/wee", None, "here"), ["README.md", "x.gguf"])


def test_discarding_follows_every_link(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("x")
    (tmp_path / "blob").symlink_to(tmp_path / "store")
    (tmp_path / "snapshot").symlink_to("blob")
    hub_files.discard(tmp_path / "snapshot")
    assert not list(tmp_path.iterdir())


def test_a_fault_of_ours_is_not_taken_for_a_network_that_is_away(place: Place) -> None:
    with pytest.raises(KeyError), hub_errors(place.repository):
        raise KeyError("a name that we got wrong")
