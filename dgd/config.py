"""From a benchmark's config to its cells.

A benchmark is one YAML file (config/README.md lists the keys); a cell is one training. Nothing here needs torch.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from dgd import NETWORKS, methods

RECIPE = {
    "epochs": 200,
    "batch_size": 128,
    "lr": 0.1,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 5e-4,
    "schedule": "slr",  # slr | dlr | difflr | cosine, see dgd.training.learning_rates
    "step_epochs": 60,
    "milestones": [],  # epochs, instead of step_epochs
    "gamma": 0.1,
    "precision": "bf16",  # bf16 | fp32 | tf32 (CUDA only)
    "channels_last": True,
    "compile": False,
    "fold_teacher": True,
    "ranks_per_network": 0,  # 0: one process for all networks, see dgd.distributed
    "deterministic": True,
    "device": "auto",  # auto | cpu | cuda
    "threads": 1,
    "evaluate_every": 1,  # epochs; the last one is always evaluated
    "filters_every": 10,  # epochs between two records of filter norms; the last one is always recorded
    "weight_average": "none",  # none | ema | swa, over epochs
    "average_decay": 0.9,
    "average_from": 1,
}
DATA = {
    "dir": "data",
    "train_images": None,
    "validation_images": 0,
    "image_size": None,
    "loader": "auto",
    "workers": 2,
}
DEFAULTS = {
    "papers": ["dgd"],
    "teacher_seeds": [0],
    "teacher_recipe": {},
    "adapt_stem": False,
    "protocol": "paper",
    "report": "first",
    "controls": {},
    "pruning": [],
}
READINGS = ("last", "best-on-test", "mean", "best", "ensemble")
KEYS = ("benchmark", "seeds", "datasets", "pairs", "methods", "data", "recipe", "results", *DEFAULTS)


class ConfigError(ValueError):
    """A config that cannot be run; the message names the file, the key and what would be right."""


def read(path: str | Path):
    """What a benchmark's YAML holds, unchecked.

    Raises:
        ConfigError: The file is not there, or is not YAML.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    try:
        return yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None


def load(path: str | Path) -> dict:
    """Read a benchmark's YAML and check it.

    Raises:
        ConfigError: The file is not there, is no mapping, or fails `check`.
    """
    config = read(path)
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: a benchmark is a mapping of keys, see config/README.md")
    check(config, str(path))
    return config


def filled(config: dict) -> dict:
    """The config with every default written out."""
    config = {**DEFAULTS, **config}
    config["data"] = {**DATA, **config.get("data", {})}
    config["recipe"] = {**RECIPE, **config.get("recipe", {})}
    return config


def check(config: dict, source: str, folders: bool = True) -> None:
    """Check what a schema cannot: names that exist, teachers that are there, folders that do not collide.

    Args:
        config: A benchmark.
        source: Its file, for the message.
        folders: Folders of images must be there. To name a benchmark's cells they need not.

    Raises:
        ConfigError: In one line, what is wrong and what would be right.
    """
    for key in ("benchmark", "seeds", "datasets", "pairs", "methods"):
        if not config.get(key):
            raise ConfigError(f"{source}: {key} is missing or empty")
    for key in config:
        if key not in KEYS:
            raise ConfigError(f"{source}: {key}: unknown key; known: {', '.join(KEYS)}")
    config = filled(config)
    for key, allowed in {"protocol": methods.PROTOCOLS, "report": ("first", "mean", "best")}.items():
        if config[key] not in allowed:
            raise ConfigError(f"{source}: {key} is {config[key]!r}; it must be one of {', '.join(allowed)}")
    try:
        rows = [methods.resolve(entry) for entry in config["methods"]]
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{source}: {error}") from None
    for name, row in rows:
        try:
            exchange = methods.filled_exchange(row["exchange"], config["protocol"])
        except ValueError as error:
            raise ConfigError(f"{source}: methods.{name}: {error}") from None
        if exchange and exchange["name"] in methods.CYCLES:
            epochs = {**config["recipe"], **row["recipe"]}["epochs"]
            whole = exchange["cycles"] * (exchange["normal"] + exchange["pruned"])
            if epochs <= whole:
                raise ConfigError(
                    f"{source}: methods.{name}: the cycles of {exchange['name']!r} take {whole} epochs, and recipe.epochs is "
                    f"{epochs}: the reported network would lack filters, or never have lost any"
                )
    names = [name for name, _ in rows]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{source}: methods: {name!r} is there twice; give one of them another name")
    slugs = [slug(name) for name in config["datasets"]]
    for name in slugs:
        if slugs.count(name) > 1:
            raise ConfigError(
                f"{source}: datasets: two of them would share the folder {name!r}; rename one, or make two benchmarks"
            )
    for name in config["datasets"]:
        kind, _, folder = name.partition(":")
        if folders and kind == "imagefolder" and not Path(folder).expanduser().is_dir():
            raise ConfigError(
                f"{source}: datasets: {folder!r} is no folder; write imagefolder:<path of a folder with train/ and test/>"
            )
        if kind == "imagefolder" and not config["data"]["image_size"]:
            raise ConfigError(
                f"{source}: data.image_size is needed for {name}: the side in pixels that its images are brought to"
            )
    _check_controls(config["controls"], dict(rows), source)
    for pair in config["pairs"]:
        for name in pair.get("methods", ()):
            if name not in names:
                raise ConfigError(f"{source}: pairs: {name!r} of {pair['student']} is no name of methods")
        for name, row in rows_of(pair, rows):
            if row["teachers"] and not pair.get("teacher"):
                raise ConfigError(
                    f"{source}: method {name!r} needs a teacher and the pair of {pair['student']} has none; "
                    f"write `teacher: <model>` beside `student: {pair['student']}`"
                )
            if row["teachers"] > len(config["teacher_seeds"]):
                raise ConfigError(
                    f"{source}: method {name!r} needs {row['teachers']} teachers and teacher_seeds has "
                    f"{len(config['teacher_seeds'])}; give it {row['teachers']} seeds"
                )
    _check_recipe(config["recipe"], source)
    for name, row in rows:
        _check_recipe({**config["recipe"], **row["recipe"]}, f"{source}: methods.{name}")
    _check_recipe({**config["recipe"], **config["teacher_recipe"]}, f"{source}: teacher_recipe")
    both = {pair["student"] for pair in config["pairs"]} & {pair.get("teacher") for pair in config["pairs"]}
    if config["teacher_recipe"] and both:
        raise ConfigError(
            f"{source}: teacher_recipe: {sorted(both)[0]} is a student and a teacher, and its baseline is one cell; "
            "leave teacher_recipe out, or make two benchmarks"
        )
    if NETWORKS:
        _check_registries(config, rows, source)


def _check_controls(controls: Mapping, rows: Mapping, source: str) -> None:
    if controls and "baseline" not in rows:
        raise ConfigError(f"{source}: controls: gains are over the baseline, which is not in methods")
    for method, readings in controls.items():
        if method not in rows or method == "baseline":
            raise ConfigError(f"{source}: controls: {method!r} has no gain; write a name of methods other than baseline")
        for reading in readings:
            name, _, how = reading.partition("@")
            if name not in rows or (how or "last") not in READINGS:
                raise ConfigError(
                    f"{source}: controls: {reading!r} is no reading; write a name of methods, or <name>@<how> with one of "
                    f"{', '.join(READINGS)}"
                )
            if reading == method:
                raise ConfigError(f"{source}: controls: {method} is held against itself")
            if how in ("mean", "best", "ensemble") and rows[name]["networks"] < 2:
                raise ConfigError(f"{source}: controls: {reading!r} reads a group, and {name} has one network")


def _check_recipe(recipe: dict, source: str) -> None:
    for key in recipe:
        if key not in RECIPE:
            raise ConfigError(f"{source}: recipe.{key}: unknown key; known: {', '.join(RECIPE)}")
        kind = type(RECIPE[key])
        wanted = (int, float) if kind is float else kind
        if not isinstance(recipe[key], wanted) or (isinstance(recipe[key], bool) and kind is not bool):
            hint = "; YAML takes 5e-4 for a text, write 5.0e-4" if kind is float else ""
            raise ConfigError(f"{source}: recipe.{key} is {recipe[key]!r}; it must be of type {kind.__name__}{hint}")
    for key, least in {"ranks_per_network": 0, "evaluate_every": 1, "filters_every": 1, "average_from": 1}.items():
        if recipe[key] < least:
            raise ConfigError(f"{source}: recipe.{key} is {recipe[key]}; it must be {least} or more")
    if not 0 <= recipe["average_decay"] < 1:
        raise ConfigError(f"{source}: recipe.average_decay is {recipe['average_decay']}; it must be from 0 to below 1")
    milestones = recipe["milestones"]
    if not all(isinstance(epoch, int) and epoch > 0 for epoch in milestones) or milestones != sorted(set(milestones)):
        raise ConfigError(f"{source}: recipe.milestones is {milestones}; it must be rising whole numbers above 0")
    if recipe["nesterov"] and not recipe["momentum"]:
        raise ConfigError(f"{source}: recipe.nesterov is true and recipe.momentum 0; it needs momentum above 0")
    choices = {
        "schedule": ("slr", "dlr", "difflr", "cosine"),
        "weight_average": ("none", "ema", "swa"),
        "precision": ("fp32", "tf32", "bf16"),
        "device": ("auto", "cpu", "cuda"),
    }
    for key, allowed in choices.items():
        if recipe[key] not in allowed:
            raise ConfigError(f"{source}: recipe.{key} is {recipe[key]!r}; it must be one of {', '.join(allowed)}")


def _check_registries(config: dict, rows: list, source: str) -> None:
    from dgd import data, models, objectives

    for name in config["datasets"]:
        if not data.is_known(name):
            raise ConfigError(
                f"{source}: datasets: unknown data set {name!r}; known: {', '.join(data.NAMES)}, imagefolder:<path>"
            )
    for pair in config["pairs"]:
        for name in filter(None, (pair["student"], pair.get("teacher"))):
            if not models.is_known(name):
                raise ConfigError(f"{source}: pairs: {models.suggest(name)}")
    for name, row in rows:
        try:
            needs = objectives.Objective(_objective(row, config["protocol"])).needs
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{source}: methods.{name}: {error}") from None
        recipe = {**config["recipe"], **row["recipe"]}
        ranks = recipe["ranks_per_network"]
        for need, lacking, advice in (
            ("teacher", not row["teachers"], "a teacher; set teachers: 1"),
            ("peers", row["networks"] < 2, "other networks in its group; set networks: 2 or more"),
            ("peers", ranks > 0, "all networks in one process; set recipe.ranks_per_network: 0"),
            ("indices", ranks > 1, "all images of its network in one process; set recipe.ranks_per_network to 0 or 1"),
            ("input_gradient", recipe["compile"], "a network that is not compiled; set recipe.compile: false"),
        ):
            if need in needs and lacking:
                raise ConfigError(f"{source}: methods.{name}: a term of {', '.join(row['objective'])} needs {advice}")


def processes(cell: Mapping) -> int:
    """Processes that a cell is spread over."""
    return cell["networks"] * cell["recipe"]["ranks_per_network"] or 1


def torchrun(processes: int) -> list[str]:
    """Arguments of python that start what follows them in so many processes of this machine."""
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]


def slug(dataset: str) -> str:
    """The folder name of a data set: its name, or `imagefolder-<name of the folder>`."""
    kind, _, path = dataset.partition(":")
    return f"{kind}-" + re.sub(r"[^\w.-]", "-", Path(path).name) if path else kind


def cells(config: dict) -> list[dict]:
    """Every cell of a benchmark, teachers first, each resolved: all that a training needs to know.

    A teacher is the `baseline` cell of another model; it is listed once however many students it has.
    """
    config = filled(config)
    rows = [methods.resolve(entry) for entry in config["methods"]]
    teachers_of: dict[str, set] = {}
    for pair in config["pairs"]:
        teachers_of.setdefault(pair["student"], set()).add(pair.get("teacher"))
    name, row = methods.resolve("baseline")
    teacher = name, {**row, "recipe": config["teacher_recipe"]}
    found: dict[str, dict] = {}

    def add(dataset, student, teacher, name, row, seed):
        cell = _cell(config, dataset, student, teacher if row["teachers"] else None, name, row, seed)
        if row["teachers"] and len(teachers_of.get(student, ())) > 1:
            cell["model"] = f"{student}-by-{teacher}"
        cell["path"] = _path(config, dataset, cell["model"], name, seed)
        found.setdefault(cell["path"], cell)

    for dataset in config["datasets"]:
        for pair in config["pairs"]:
            needed = max((row["teachers"] for _, row in rows_of(pair, rows)), default=0)
            for seed in config["teacher_seeds"][:needed]:
                add(dataset, pair["teacher"], None, *teacher, seed)
        for pair in config["pairs"]:
            for name, row in rows_of(pair, rows):
                for seed in config["seeds"]:
                    add(dataset, pair["student"], pair.get("teacher"), name, row, seed)
    return list(found.values())


def rows_of(pair: Mapping, rows: list[tuple[str, dict]]) -> list[tuple[str, dict]]:
    """The methods that a pair is trained by: all, or those that it names."""
    return [(name, row) for name, row in rows if name in pair.get("methods", [name])]


def _path(config, dataset, model, method, seed) -> str:
    return f"{config['benchmark']}/{slug(dataset)}/{model}/{method}/seed{seed}"


def _objective(row: dict, protocol: str) -> dict[str, dict]:
    """The terms with their options, `{'weight': ...}` written out."""
    objective = methods.given_options(row["objective"])
    if "kd" in objective:
        # With several teachers the paper averages probabilities, the released code adds the losses up.
        objective["kd"].setdefault("teachers", "mean" if protocol == "paper" else "sum")
    return objective


def _cell(config, dataset, student, teacher, name, row, seed) -> dict:
    return {
        "benchmark": config["benchmark"],
        "dataset": dataset,
        "slug": slug(dataset),
        "model": student,
        "student": student,
        "teacher": teacher,
        "method": name,
        "seed": seed,
        "networks": row["networks"],
        "teachers": [_path(config, dataset, teacher, "baseline", k) for k in config["teacher_seeds"][: row["teachers"]]],
        "objective": _objective(row, config["protocol"]),
        "exchange": methods.filled_exchange(row["exchange"], config["protocol"]),
        "protocol": config["protocol"],
        "adapt_stem": config["adapt_stem"],
        "data": dict(config["data"]),
        "recipe": {**config["recipe"], **row["recipe"]},
    }
