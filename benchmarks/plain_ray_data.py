"""What embed_throughput.py compares with: image embedding as Ray's documentation shows it, with the same encoder.

read_images, map to resize, map_batches with a class that holds the model, write_parquet. It is given what is good for
it: threads held to one a process, and half a core for each actor, since reading needs cores too. An image that cannot
be read fails it.
"""

import json
import sys
import time
from typing import Any

import numpy as np
import ray
from PIL import Image
from pydantic import TypeAdapter
from ray.data import ActorPoolStrategy

from dxmc_core.encoders import EncoderConfig, load_encoder


class Embed:
    def __init__(self, config: EncoderConfig, device: str, batch_size: int) -> None:
        self._encoder = load_encoder(config, device=device, batch_size=batch_size, num_threads=1)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        embeddings = self._encoder.encode_images(np.stack(list(batch["image"]))).astype(np.float16)
        return {"path": batch["path"], "embedding": embeddings}


def main() -> None:
    request = json.loads(sys.argv[1])
    config: EncoderConfig = TypeAdapter(EncoderConfig).validate_python(request["config"])
    on_gpu = request["device"] != "cpu"
    ray.init(address="local", num_cpus=request["cores"], include_dashboard=False, log_to_driver=False)
    preprocess = config.load_preprocess()

    def resize(row: dict[str, Any]) -> dict[str, Any]:
        return {"path": row["path"], "image": preprocess(Image.fromarray(row["image"]))}

    started = time.perf_counter()
    dataset = ray.data.read_images(request["folder"], mode="RGB", include_paths=True)
    dataset = dataset.map(resize).map_batches(
        Embed,
        fn_constructor_kwargs={"config": config, "device": request["device"], "batch_size": request["batch_size"]},
        batch_size=request["batch_size"],
        compute=ActorPoolStrategy(size=1 if on_gpu else request["cores"]),
        num_cpus=0.5,
        num_gpus=1 if on_gpu else 0,
    )
    dataset.write_parquet(request["output"])
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main()
