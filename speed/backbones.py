"""Train one small network of each of timm's families for two steps by several methods, and write docs/backbones.md.

python -m speed.backbones                  # all of them: half an hour on two cores
python -m speed.backbones xcit_nano_12_p8_224 --out page.md
"""

import argparse
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.models import model_entrypoint

from dgd import config, data, models
from dgd.files import write_text
from dgd.train import NoResult, train_cell
from speed.format import table

PAGE = Path(__file__).parents[1] / "docs/backbones.md"
METHODS = ("baseline", "kd", "grafting", "at", "review")
TEACHER = "test_resnet"
SIZES = (64, 224, 240)
"""Sides in pixels of the images; the larger ones where a network takes no smaller ones."""
NETWORKS = """
cait_xxs24_224 coat_tiny convit_tiny convmixer_1024_20_ks9_p14 cpubone_nano crossvit_tiny_240 cs3darknet_s csatv2
cspnext_tiny davit_tiny deit_tiny_patch16_224 densenet121 dla34 dpn48b eca_halonext26ts edgenext_small
efficientformer_l1 efficientformerv2_s0 efficientnet_cc_b0_4e efficientvim_m1 efficientvit_b0 efficientvit_m0
ese_vovnet19b_slim eva02_tiny_patch14_224 fasternet_s fastvit_s12 focalnet_tiny_lrf gcvit_xxtiny ghostnet_050
gmlp_ti16_224 halonet26t hardcorenas_a hgnetv2_b0 hiera_tiny_224 hrnet_w18_small iformer_s inception_next_atto
inception_v3 inception_v4 lambda_resnet26t lcnet_035 lcnetv2_small legacy_seresnet18 legacy_xception levit_128s
lowformer_b0 mixer_s16_224 mobilevit_xxs mvitv2_tiny nest_tiny nextvit_small pit_ti_224 poolformer_s12 pvt_v2_b0
rdnet_tiny regnetx_002 repghostnet_050 repvit_m0_9 res2net50_26w_4s resmlp_12_224 resnest26d resnetv2_18 rexnet_150
sam2_hiera_tiny selecsls42 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224
swinv2_cr_tiny_224 swinv2_tiny_window8_256 test_byobnet test_coatnet test_convnext test_efficientnet test_mambaout
test_nfnet test_resnet test_vit test_vit_relpos tiny_vit_5m_224 tnt_s_patch16_224 tresnet_m twins_svt_small vgg11
visformer_tiny vit_small_r26_s32_224 vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224 xception41 xcit_nano_12_p8_224
""".split()  # noqa: SIM905
"""The smallest network of each family that is built in a second or so, and some that are one of a kind."""
HEAD = """# Backbones

Each network of timm can be a student or a teacher. This table has one small network of each family: two steps of eight
random images by each of five methods, on a CPU in float32, taught by `test_resnet`. `python -m speed.backbones` makes it
(timm {timm}, torch {torch}).

*works*: the cell has a result. A number: it has none, for the reason below, and says so as its outcome. *images*: their side in
pixels, and whether `adapt_stem` fits the network to it. A family of large networks alone, of more than 45 million
parameters, is left out.

"""


def images(root: Path, size: int) -> Path:
    """Return the folder of a prepared data set of random images, sixteen to train on and two to test on, of two classes."""
    folder, out, draw = root / f"images{size}", root / f"prepared{size}", np.random.default_rng(0)
    if not out.is_dir():
        for split, number in (("train", 8), ("test", 1)):
            for name in "ab":
                (folder / split / name).mkdir(parents=True)
                for i in range(number):
                    pixels = draw.integers(0, 256, (size, size, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
        data.prepare(f"imagefolder:{folder}", out, image_size=size)
    return out


def fit(name: str) -> tuple[int, bool]:
    """Return the first size of images and `adapt_stem` that a network can be built for; the first of all if there is none."""
    for size, adapt_stem in ((SIZES[0], True), *((size, False) for size in SIZES)):
        try:
            with torch.device("meta"):
                models.create(name, num_classes=2, image_size=size, adapt_stem=adapt_stem)
            return size, adapt_stem
        except models.CannotBuild:
            continue
    return SIZES[0], True


def outcomes(name: str, root: Path, methods: Sequence[str] = METHODS) -> Iterator[tuple[str, str]]:
    """Train a network by each method, and yield the method with "" or the reason why there is no result.

    Args:
        name: The network.
        root: Folder for data and results.
        methods: Names of the table of methods.
    """
    size, adapt_stem = fit(name)
    prepared, results = images(root, size), root / f"results{size}{adapt_stem}"
    benchmark = {
        "benchmark": "backbones",
        "seeds": [0],
        "datasets": [f"imagefolder:{root / f'images{size}'}"],
        "data": {"image_size": size},
        "pairs": [{"student": name, "teacher": TEACHER, "adapt_stem": adapt_stem}],
        "methods": list(dict.fromkeys(["baseline", *methods])),
        "recipe": {"epochs": 1, "batch_size": 8, "lr": 0.01, "device": "cpu", "precision": "fp32", "threads": 1},
    }
    for cell in config.cells(config.check(benchmark, "backbones")):
        why = ""
        if cell.student == TEACHER != name and (results / cell.path / "metrics.json").is_file():  # another network's too
            continue
        try:
            train_cell(cell, results=results, data=prepared)
        except NoResult as error:
            why = f"{error.status}: {error}"
        except Exception as error:  # what is no outcome of its own is a mistake of ours, and the table shows it
            traceback.print_exc()
            why = f"failed: {type(error).__name__}: {error}"
        if cell.student == name and cell.method in methods:
            yield cell.method, " ".join(why.split())


def row(name: str, root: Path) -> dict[str, str]:
    """Return a network's row of the table, with the reasons in place of their numbers."""
    size, adapt_stem = fit(name)
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=2)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    found = {"family": model_entrypoint(name).__module__.rpartition(".")[2], "network": name}
    found |= {"parameters, millions": f"{millions:.1f}", "images": f"{size}{', adapted' if adapt_stem else ''}"}
    return found | {method: why or "works" for method, why in outcomes(name, root)}


def page(rows: Sequence[dict[str, str]]) -> str:
    """Return the page: the table, and below it each reason once, without the names of network and method."""
    reasons: dict[str, int] = {}
    shown = []
    for found in sorted(rows, key=lambda found: (found["family"], found["network"])):
        cells = dict(found)
        for method in METHODS:
            if found[method] != "works":
                why = found[method].replace(repr(found["network"]), "").replace(found["network"], "the network")
                why = " ".join(why.replace(f"'{method}'", "the method").split())
                cells[method] = str(reasons.setdefault(why, len(reasons) + 1))
        shown.append(cells)
    good = sum(found[method] == "works" for found in rows for method in METHODS)
    head = HEAD.format(timm=timm.__version__, torch=torch.__version__.partition("+")[0])
    walked = f"{len(rows)} of the command's {len(NETWORKS)} networks are here"
    total = f"{walked}; {good} of their {len(rows) * len(METHODS)} cells have a result.\n"
    return "\n".join([head + table(shown), "", *(f"{number}. {why}" for why, number in reasons.items()), "", total])


def main(argv=None) -> None:
    """Walk the networks and write the page anew after each, so that one that is stopped has what it walked."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("networks", nargs="*", default=NETWORKS, help="names of timm")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page")
    args = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as root:
        for name in args.networks:
            rows.append(row(name, Path(root)))
            print(rows[-1], file=sys.stderr, flush=True)
            write_text(args.out, page(rows))


if __name__ == "__main__":
    main()
