"""Finds the weights of a pretrained tag: in the local cache without a word to the network, else by download.

open_clip asks the hub about every file, also about cached ones, and tries for most of a minute where there is no
network. Here a cached file is used as it is, and a hub that does not answer is given up after seconds.
"""

from pathlib import Path, PurePosixPath

import open_clip
from huggingface_hub import constants
from open_clip.transform import PreprocessCfg

from dxmc_core.encoders import hub
from dxmc_core.encoders.open_clip import OpenClipConfig
from dxmc_core.errors import InputError, on_one_line

_WAY_OUT = "give the path of a local checkpoint in encoder.pretrained, or set encoder.kind=offline"


def fetch_tag(model: str, tag: str) -> tuple[Path, dict]:
    """The file of a pretrained tag, downloaded if it is not cached, and the preprocessing that belongs to it.

    Raises:
        InputError: there is no such tag, it is for another activation, or it can be neither found nor downloaded.
    """
    config = _tag_config(model, tag)
    path = _cached_file(config) or _download(model.replace("/", "-"), tag, config)
    return path, tag_preprocessing(model, tag)


def tag_preprocessing(model: str, tag: str) -> dict:
    """The preprocessing that belongs to a pretrained tag; nothing is downloaded for it.

    Raises:
        InputError: there is no such tag, or it is for another activation.
    """
    keys = PreprocessCfg.__dataclass_fields__.keys() - {"size"}  # the size is the model's
    return {key: value for key, value in _tag_config(model, tag).items() if key in keys and value is not None}


def _tag_config(model: str, tag: str) -> dict:
    name = model.replace("/", "-")
    config = open_clip.get_pretrained_cfg(name, tag)
    if not config:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise InputError(f"encoder.pretrained: {name} has no weights {tag!r}; its tags: {tags}; or {_WAY_OUT}")
    _check_activation(name, tag, config)
    return config


def require_weights(config: OpenClipConfig) -> None:
    """Check that the weights are on this machine or that who has them answers; nothing is loaded or downloaded.

    Raises:
        InputError: they cannot be had.
    """
    if config.brings_weights:
        require_hub(config.model, weights=True)
    elif config.checkpoint_path() is None:
        found = _tag_config(config.model, config.pretrained)
        if _cached_file(found) is None:
            _require_answer(config.model, config.pretrained, found)
            hub.announce_download(f"{config.pretrained!r} of {config.model}")


def require_hub(model: str, *, weights: bool = False) -> None:
    """Give up at once on a model of the hub whose description, or weights too, are neither cached nor to be had.

    Raises:
        InputError: the hub does not answer.
    """
    if not model.startswith("hf-hub:"):
        return
    repository = model.removeprefix("hf-hub:")
    wanted = [["open_clip_config.json"], _file_names("")] if weights else [["open_clip_config.json"]]
    is_cached = all(hub.cached_on_hub(repository, names) for names in wanted)
    if not is_cached and not hub.answers(constants.ENDPOINT):
        raise InputError(
            f"encoder.model: {model} is not in the cache and {constants.ENDPOINT} does not answer; copy its folder "
            "to this machine and set encoder.model=local-dir:/FOLDER, or set encoder.kind=offline"
        )
    if weights and not is_cached:
        hub.announce_download(model)


def _check_activation(name: str, tag: str, config: dict) -> None:
    """open_clip warns and goes on; the embeddings would be poor, and nobody would notice."""
    needs_quick = bool(config.get("quick_gelu", False))
    has_quick = bool((open_clip.get_model_config(name) or {}).get("quick_gelu", False))
    if needs_quick != has_quick:
        other = f"{name}-quickgelu" if needs_quick else name.removesuffix("-quickgelu")
        raise InputError(f"encoder.model: the weights {tag!r} were trained with another activation; set it to {other}")


def _cached_file(config: dict) -> Path | None:
    """The file as huggingface_hub or open_clip left it at an earlier download."""
    if config.get("hf_hub"):
        repository, _, file_name = config["hf_hub"].rpartition("/")
        return hub.cached_on_hub(repository, _file_names(file_name))
    path = Path("~/.cache/clip").expanduser() / PurePosixPath(config["url"]).name
    return path if path.is_file() else None


def _file_names(file_name: str) -> list[str]:
    """What open_clip looks for, in its order: safetensors before pickles."""
    if not file_name:
        return ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    path = PurePosixPath(file_name)
    return [str(path.with_suffix(".safetensors")), file_name] if path.suffix in (".bin", ".pth") else [file_name]


def _require_answer(model: str, tag: str, config: dict) -> None:
    where = constants.ENDPOINT if config.get("hf_hub") else config["url"]
    if constants.HF_HUB_OFFLINE or not hub.answers(where):
        raise InputError(f"encoder: no network to download the weights {tag!r} of {model} from {where}; {_WAY_OUT}")


def _download(name: str, tag: str, config: dict) -> Path:
    _require_answer(name, tag, config)
    try:
        return Path(open_clip.download_pretrained(config))
    except (OSError, RuntimeError, ValueError) as error:
        said = on_one_line(error)[:300]
        raise InputError(f"encoder: cannot download the weights {tag!r} of {name}: {said}; {_WAY_OUT}") from error
