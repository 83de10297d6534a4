"""Data sets of the quality benchmark: files of embeddings, and folders of labelled images that an encoder embeds.

The five data sets of the DXMC paper are known by name: their classes, and how their folders may be laid out.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dxmc_core.encoders import Encoder, EncoderConfig, OfflineConfig, load_encoder
from dxmc_core.errors import InputError
from dxmc_core.images.decode import ImageRejectedError, decode_image
from dxmc_core.images.listing import ListedImage, list_images
from dxmc_core.images.objects import fetch
from dxmc_core.method.nouns.vocabulary import Vocabulary
from dxmc_core.method.preparation import CLIP_RETRIEVAL_TEMPERATURE, as_stored
from dxmc_core.stages.embedding_files import read_embedding_file
from dxmc_core.vocabulary import EmbeddingsConfig, VocabularyConfig, WordNetConfig, load_vocabulary, vocabulary_identity

_TRAIN_FOLDERS = ("train",)
_TEST_FOLDERS = ("test", "val")
_IMAGES_PER_BATCH = 256
_NOUNS_PER_BATCH = 512
_DECODING_THREADS = 8

#: WordNet ids, ImageNet's folder names, and what they stand for.
_IMAGENET_10 = {
    "n02056570": "king penguin",
    "n02085936": "Maltese dog",
    "n02128757": "snow leopard",
    "n02690373": "airliner",
    "n02692877": "airship",
    "n03095699": "container ship",
    "n04254680": "soccer ball",
    "n04285008": "sports car",
    "n04467665": "trailer truck",
    "n07747607": "orange",
}
_IMAGENET_DOGS = {
    "n02085936": "Maltese dog",
    "n02086646": "Blenheim spaniel",
    "n02088238": "basset",
    "n02091467": "Norwegian elkhound",
    "n02097130": "giant schnauzer",
    "n02099601": "golden retriever",
    "n02101388": "Brittany spaniel",
    "n02101556": "clumber",
    "n02102177": "Welsh springer spaniel",
    "n02105056": "groenendael",
    "n02105412": "kelpie",
    "n02105855": "Shetland sheepdog",
    "n02107142": "Doberman",
    "n02110958": "pug",
    "n02112137": "chow",
}
#: CIFAR-100's twenty superclasses (Krizhevsky 2009) and the classes of each: CIFAR-20.
_CIFAR_20 = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}


@dataclass(frozen=True)
class PaperSet:
    """A data set of the paper.

    Attributes:
        title: as in the paper's tables.
        num_classes: that must be found.
        folders: names that its folder may have; case and punctuation do not matter.
        only_classes: class folders that are used where there are more (all of ImageNet, for example).
        class_of: superclass of each class folder, where classes are grouped.
    """

    title: str
    num_classes: int
    folders: tuple[str, ...]
    only_classes: tuple[str, ...] = ()
    class_of: dict[str, str] | None = None


PAPER_SETS = {
    "stl10": PaperSet("STL-10", 10, ("stl10",)),
    "cifar10": PaperSet("CIFAR-10", 10, ("cifar10",)),
    "cifar20": PaperSet(
        "CIFAR-20",
        20,
        ("cifar20", "cifar100"),
        class_of={fine: coarse for coarse, names in _CIFAR_20.items() for fine in names.split()},
    ),
    "imagenet10": PaperSet("ImageNet-10", 10, ("imagenet10", "imagenet"), only_classes=tuple(_IMAGENET_10)),
    "imagenetdogs": PaperSet(
        "ImageNet-Dogs", 15, ("imagenetdogs", "imagenetdog", "imagenet"), only_classes=tuple(_IMAGENET_DOGS)
    ),
}


@dataclass(frozen=True)
class Dataset:
    """A labelled data set, embedded.

    Attributes:
        name: as it was asked for.
        title: for tables.
        embeddings: (N, D) float16 unit rows.
        labels: (N,) text; scoring sees them, training does not.
        is_test: (N,) bool where the data set has a test part of its own, else None.
        vocabulary: nouns with their embeddings (M, D) float16, or None.
        temperature: of retrieval, which belongs to the encoder.
        identity: JSON-able: what exactly this was.
    """

    name: str
    title: str
    embeddings: np.ndarray
    labels: np.ndarray
    is_test: np.ndarray | None
    vocabulary: Vocabulary | None
    temperature: float
    identity: dict


@dataclass(frozen=True)
class DataOptions:
    """Where data lie and what embeds them.

    Attributes:
        folder: the data directory, for data sets given by name.
        nouns: file of embedded nouns for files of embeddings; by default nouns.npz beside them.
        encoder, vocabulary: for folders of images.
        cache: folder in which embeddings of images and nouns are kept for the next run.
    """

    folder: Path | None
    nouns: Path | None
    encoder: EncoderConfig
    vocabulary: VocabularyConfig
    cache: Path

    @classmethod
    def of_embeddings(cls, folder: str | Path | None) -> "DataOptions":
        """For files of embeddings, with nouns beside them."""
        return cls(
            folder=None if folder is None else Path(folder),
            nouns=None,
            encoder=OfflineConfig(kind="offline"),
            vocabulary=WordNetConfig(),
            cache=default_cache(),
        )


def default_cache() -> Path:
    """The folder for embeddings that the user's system sets aside for caches."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "dxmc" / "quality"


def load_dataset(name: str, options: DataOptions) -> Dataset:
    """A data set by path (.npz or a folder of images) or by name (looked for in the data directory).

    Raises:
        InputError: it is not there, has no labels, or does not hold the classes that its name promises.
    """
    place = _find(name, options.folder)
    return _from_file(name, place, options) if place.is_file() else _from_images(name, place, options)


def _find(name: str, folder: Path | None) -> Path:
    if name.endswith(".npz") or os.sep in name:
        if not Path(name).exists():
            raise InputError(f"data set {name}: no such file or folder")
        return Path(name)
    if folder is None:
        raise InputError(f"data set {name!r} is given by name: say with --data, or DXMC_EVALUATION_DATA, where it lies")
    if not folder.is_dir():
        raise InputError(f"the data directory {folder} does not exist")
    files = sorted([*folder.glob(f"{name}.npz"), *folder.glob(f"*/{name}.npz")])
    if files:
        return files[0]
    known = PAPER_SETS.get(_key(name))
    children = {_key(child.name): child for child in sorted(folder.iterdir()) if child.is_dir()}
    for wanted in known.folders if known else (_key(name),):
        if wanted in children:
            return children[wanted]
    wanted = " or ".join([f"{name}.npz", f"*/{name}.npz", *(known.folders if known else (name,))])
    raise InputError(f"data set {name!r} is not in {folder}; looked for {wanted}")


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _from_file(name: str, path: Path, options: DataOptions) -> Dataset:
    file = read_embedding_file(str(path))
    if file.labels is None:
        raise InputError(f"{path} has no array 'labels' (N,), against which clusters are scored")
    nouns = options.nouns or path.with_name("nouns.npz")
    vocabulary = None
    if options.nouns is not None or nouns.exists():
        vocabulary = _stored(load_vocabulary(EmbeddingsConfig(kind="embeddings", uri=str(nouns))), where=str(nouns))
    return Dataset(
        name=name,
        title=path.stem,
        embeddings=_stored_rows(file.embeddings, where=str(path)),
        labels=np.array(file.labels),
        is_test=_test_rows(path),
        vocabulary=vocabulary,
        temperature=CLIP_RETRIEVAL_TEMPERATURE,
        identity={
            "embeddings": {"file": path.name, "sha256": _sha256(path)},
            "nouns": {"file": nouns.name, "sha256": _sha256(nouns)} if vocabulary is not None else None,
        },
    )


def _test_rows(path: Path) -> np.ndarray | None:
    """The optional array `is_test` of a .npz file."""
    with np.load(path, allow_pickle=False) as archive:
        return archive["is_test"].astype(bool) if "is_test" in archive.files else None


def _stored(vocabulary: Vocabulary, *, where: str) -> Vocabulary:
    assert vocabulary.embeddings is not None
    return Vocabulary(vocabulary.nouns, vocabulary.synset_ids, _stored_rows(vocabulary.embeddings, where=where))


def _stored_rows(rows: np.ndarray, *, where: str) -> np.ndarray:
    try:
        return as_stored(rows, name="embeddings")
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_images(name: str, folder: Path, options: DataOptions) -> Dataset:
    images, labels, is_test = labelled_images(folder, PAPER_SETS.get(_key(name)))
    encoder = _LazyEncoder(options.encoder)
    listing = [(image.image_id, image.size, image.etag) for image in images]
    identity = {"encoder": options.encoder.identity(), "images": _digest(listing)}
    nouns_identity = {"encoder": identity["encoder"], "vocabulary": vocabulary_identity(options.vocabulary)}
    embeddings, temperature = _cached(options.cache, identity, encoder, lambda: _embed_images(images, encoder()))
    words = load_vocabulary(options.vocabulary)
    if words.embeddings is None:
        noun_embeddings, _ = _cached(options.cache, nouns_identity, encoder, lambda: _embed_nouns(words, encoder()))
        words = Vocabulary(words.nouns, words.synset_ids, noun_embeddings)
    known = PAPER_SETS.get(_key(name))
    return Dataset(
        name=name,
        title=known.title if known else folder.name,
        embeddings=embeddings,
        labels=labels,
        is_test=is_test,
        vocabulary=_stored(words, where="vocabulary"),
        temperature=temperature,
        identity={**identity, **nouns_identity, "encoder_config": options.encoder.model_dump(mode="json")},
    )


def labelled_images(folder: Path, known: PaperSet | None) -> tuple[list[ListedImage], np.ndarray, np.ndarray | None]:
    """Images of a folder with train/<class>/ and test/<class>/ (or val/), one of the two, or <class>/ at once.

    Returns:
        images; their classes (N,) text; whether they are of the test part (N,) bool, None without two parts.

    Raises:
        InputError: a class is missing, or there are other classes than the data set's.
    """
    parts = [
        (part, is_test)
        for names, is_test in ((_TRAIN_FOLDERS, False), (_TEST_FOLDERS, True))
        for part in [next((folder / name for name in names if (folder / name).is_dir()), None)]
        if part is not None
    ] or [(folder, False)]
    images: list[ListedImage] = []
    labels: list[str] = []
    test: list[bool] = []
    for part, is_test in parts:
        for image in _images_below(part):
            label = _class_of(image.label or "", known)
            if label is not None:
                images.append(image)
                labels.append(label)
                test.append(is_test)
    if known is not None and len(set(labels)) != known.num_classes:
        raise InputError(
            f"{known.title} has {known.num_classes} classes, found {len(set(labels))} in {folder}: "
            f"{', '.join(sorted(set(labels))[:25])}; expected train/<class>/ and test/<class>/, or <class>/"
        )
    return images, np.array(labels), np.array(test) if len(parts) == 2 else None


def _images_below(folder: Path) -> Iterator[ListedImage]:
    for table in list_images(str(folder), label_from="parent_folder"):
        yield from (ListedImage(**row) for row in table.to_pylist())


def _class_of(label: str, known: PaperSet | None) -> str | None:
    """The class a folder stands for in a data set, or None when it has no part in it."""
    if known is None:
        return label
    if known.class_of is not None:
        return known.class_of.get(label, label)
    if known.only_classes and label not in known.only_classes and re.fullmatch(r"n\d{8}", label):
        return None
    return label


class _LazyEncoder:
    """Loads the encoder when it is first needed: with a full cache never."""

    def __init__(self, config: EncoderConfig) -> None:
        self._config = config
        self._loaded: Encoder | None = None

    def __call__(self) -> Encoder:
        if self._loaded is None:
            self._loaded = load_encoder(self._config)
        return self._loaded


def _cached(
    cache: Path, identity: dict, encoder: _LazyEncoder, compute: Callable[[], np.ndarray]
) -> tuple[np.ndarray, float]:
    """Embeddings (N, D) float16 and the encoder's retrieval temperature, from the cache when they are there."""
    path = cache / f"{_digest(identity)}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as archive:
            return archive["embeddings"], float(archive["temperature"])
    embeddings, temperature = compute(), encoder().retrieval_temperature
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.npz")
    np.savez(unfinished, embeddings=embeddings, temperature=temperature)
    unfinished.replace(path)
    return embeddings, temperature


def _embed_images(images: Sequence[ListedImage], encoder: Encoder) -> np.ndarray:
    def pixels_of(image: ListedImage) -> np.ndarray:
        data = fetch(image.uri)
        if isinstance(data, ImageRejectedError):
            raise InputError(f"{image.uri}: {data}; a benchmark leaves no image out")
        try:
            return encoder.preprocess(decode_image(data))
        except ImageRejectedError as error:
            raise InputError(f"{image.uri}: {error}; a benchmark leaves no image out") from error

    with ThreadPoolExecutor(_DECODING_THREADS) as pool:
        blocks = [
            encoder.encode_images(np.stack(list(pool.map(pixels_of, batch)))).astype(np.float16)
            for batch in _batches(images, _IMAGES_PER_BATCH)
        ]
    return np.concatenate(blocks)


def _embed_nouns(words: Vocabulary, encoder: Encoder) -> np.ndarray:
    return np.concatenate(
        [encoder.encode_nouns(batch).astype(np.float16) for batch in _batches(words.nouns, _NOUNS_PER_BATCH)]
    )


def _batches(items: Sequence, size: int) -> Iterator[Sequence]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
