"""From a benchmark's YAML to its cells: the only check of a config, for Snakemake, `dgd-bench` and Python alike.

A benchmark is one YAML file (config/README.md lists the keys); a cell is one training. Nothing here needs torch.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from dgd import checks, files, keys, methods, metrics, plugins, shipped, yaml_files
from dgd.benchmark import (
    BASELINE,
    GAN_RECIPE,
    RATIO_RECIPE,
    Benchmark,
    Pair,
    Teacher,
    objective_of,
    overridden,
    own_baseline,
    rows_of,
    teacher_row,
)
from dgd.cell import IMAGE, Cell, Generated, Method, TeacherFile, exchange, slug

ASKED = "benchmark.yaml"
"""The checked config in a benchmark's results: what was asked for, whatever of it is there. The tables follow by it."""


class ConfigError(ValueError):
    """A config that cannot be run; each line of the message names the file, the key and what would be right."""


def read(path: str | Path) -> dict:
    """Return what a benchmark's YAML holds, unchecked.

    Args:
        path: The file, or the name of a benchmark that travels with the package.

    Raises:
        ConfigError: The file is not there, is not strict YAML (see `dgd.yaml_files`), or holds no mapping.
    """
    path = shipped.benchmark(path)
    try:
        found = yaml_files.read(path)
    except ValueError as error:
        named = str(error) == "no such file" and path.parent == Path() and not path.suffix
        hint = f", nor a benchmark of the package{keys.nearest(path, shipped.names())}" if named else ""
        raise ConfigError(f"{path}: {error}{hint}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: a benchmark is {keys.short(found)}; it must be a mapping of keys, see config/README.md")
    return found


def load(path: str | Path, folders: bool = True) -> Benchmark:
    """Read a benchmark's YAML and check it.

    Args:
        path: The file.
        folders: Folders of images must be there. To name a benchmark's cells they need not.

    Raises:
        ConfigError: As `read` and `check`.
    """
    return check(read(path), str(path), folders)


def asked(folder: str | Path) -> Benchmark | None:
    """Return the benchmark that a folder of results was asked for; None where it does not say so. None of its code is run.

    Raises:
        ConfigError: Its benchmark.yaml has a mistake.
    """
    path = Path(folder) / ASKED
    return check(read(path), str(path), folders=False, run=False) if path.is_file() else None


def write_asked(benchmark: Benchmark, folder: str | Path) -> None:
    """Write into a folder of results what is asked for there, for those who read it."""
    files.write_text(Path(folder) / ASKED, yaml.safe_dump(benchmark.plain(), sort_keys=False))


def check(given: Any, source: str = "config", folders: bool = True, run: bool = True) -> Benchmark:
    """Return the benchmark that a mapping holds.

    Args:
        given: What YAML or JSON holds.
        source: Its file, for the messages.
        folders: Folders of images must be there. To name a benchmark's cells they need not.
        run: Load its plugins, and ask the registries. What lies in a folder of results was checked when it was asked for, and
            may come from someone else: of that, no code is run.

    Raises:
        ConfigError: One line for each mistake: the file, the key, what it is, and what would be right.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"{source}: a benchmark is {keys.short(given)}; it must be a mapping of keys, see config/README.md")
    wrong = keys.by_key(Benchmark, given)
    try:
        plugins.load_installed()
        plugins.load(given.get("plugins", ()) if run and "plugins" not in wrong else ())
    except ValueError as error:
        raise ConfigError(f"{source}: plugins: {error}") from error
    if "methods" in given and "methods" not in wrong:
        protocol = given.get("protocol", "paper") if "protocol" not in wrong else "paper"
        if lines := _entry_problems(given["methods"], protocol):
            wrong["methods"] = lines
    benchmark = _known_part(given, wrong)
    lines = [line for found in wrong.values() for line in found]
    lines += checks.problems(benchmark, wrong, folders, registries=run)
    if lines:
        hint = (
            ""
            if run or not given.get("plugins")
            else f" (it uses plugins: {keys.short(given['plugins'])}; give them by --plugin)"
        )
        raise ConfigError("\n".join(f"{source}: {line}{hint}" for line in dict.fromkeys(lines)))
    return benchmark


def _entry_problems(entries: list, protocol: str) -> list[str]:
    lines = [line for i, entry in enumerate(entries) for line in methods.problems(entry, f"methods[{i}]", protocol)]
    if lines:
        return lines
    names = [methods.name_of(entry) for entry in entries]
    twice = dict.fromkeys(name for i, name in enumerate(names) if name in names[:i])
    return [f"methods: {name!r} is there twice; give one of them another name" for name in twice]


def _known_part(given: Mapping, wrong: Mapping) -> Benchmark:
    """Build what of a benchmark has no mistake, so that the rest of it can be checked in the same run."""
    blank = {"benchmark": "b", "seeds": (), "datasets": (), "pairs": (), "methods": ()}
    return keys.build(Benchmark, blank | {name: value for name, value in given.items() if name not in wrong})


def cells(benchmark: Benchmark) -> list[Cell]:
    """Return the cells of a benchmark: teachers first, then data sets, pairs, methods and seeds in order.

    A teacher is a cell of another model, of `baseline` or of the row that `taught_by` names: the same training, run earlier.
    The cells that generate images come after the teacher that judges them. A method whose teachers differ from pair to pair of
    one student has a folder `<student>-by-<teacher>` for each.
    """
    rows = benchmark.rows
    teachers_of: dict[str, set] = {}
    for pair in benchmark.pairs:
        if pair.teacher:
            teachers_of.setdefault(pair.student, set()).add(pair.teacher)
    found: dict[str, Cell] = {}

    def add(dataset: str, pair: Pair, name: str, row: Method, seed: int) -> None:
        cell = _cell(benchmark, dataset, pair, name, row, seed)
        if row.teachers and len(teachers_of.get(pair.student, ())) > 1:
            cell = replace(cell, model=f"{pair.student}-by-{pair.teacher}")
        found.setdefault(cell.path, cell)

    for dataset in benchmark.datasets:
        for pair in benchmark.pairs:
            used = rows_of(pair, rows).values()
            generated = [keys.build(Generated, benchmark.generated[row.generated]) for row in used if row.generated]
            needed = {BASELINE: (teacher_row(benchmark, methods.BASELINE)[1], bool(generated))}
            for row in used:
                name, taught = teacher_row(benchmark, row)
                needed[name] = taught, max(row.teachers, needed.get(name, (taught, 0))[1])
            about, needed = pair.about_teacher, {} if pair.checkpoint else needed
            for name, (taught, count) in needed.items():
                for seed in benchmark.teacher_seeds[:count]:
                    own = Pair(about.name, input=pair.teacher_input, options=about.options, adapt_stem=pair.adapt_stem)
                    add(dataset, own, name, taught, seed)
            makers = _makers(benchmark, dataset, pair.teacher) if generated else []
            for cell in makers if any(one.subsample for one in generated) else makers[:1]:
                found.setdefault(cell.path, cell)
        for pair in benchmark.pairs:
            for name, row in rows_of(pair, rows).items():
                for seed in benchmark.seeds:
                    add(dataset, pair, name, row, seed)
    return [replace(cell, plugins=plugins.given_for(cell)) for cell in found.values()]


def _cell(benchmark: Benchmark, dataset: str, pair: Pair, name: str, row: Method, seed: int) -> Cell:
    kind = metrics.of_dataset(dataset)
    images = keys.build(Generated, benchmark.generated[row.generated]) if row.generated else None
    about = pair.about_teacher if row.teachers else None
    cells_taught = 0 if pair.checkpoint else row.teachers
    makers = [cell.path for cell in _makers(benchmark, dataset, pair.teacher)] if images else []
    root, taught_by = f"{benchmark.benchmark}/{slug(dataset)}", teacher_row(benchmark, row)[0]
    return Cell(
        benchmark=benchmark.benchmark,
        dataset=dataset,
        model=pair.student,
        method=name,
        seed=seed,
        student=pair.student,
        teacher=pair.teacher if row.teachers else None,
        networks=row.networks,
        subnets=pair.subnets if row.subnets else (),
        subnet_batch_norm=row.subnet_batch_norm,
        subnet_classifier=row.subnet_classifier,
        baseline=own_baseline(benchmark, name),
        teachers=tuple(f"{root}/{pair.teacher}/{taught_by}/seed{k}" for k in benchmark.teacher_seeds[:cells_taught]),
        generated=images,
        images=row.generated,
        makers=_paths(images, makers, f"{root}/{pair.teacher}/{BASELINE}/seed{benchmark.teacher_seeds[0]}") if images else (),
        objective=objective_of(row, benchmark.protocol, kind),
        exchange=exchange(row.exchange, benchmark.protocol),
        protocol=benchmark.protocol,
        task=kind,
        input=pair.input,
        teacher_input=pair.teacher_input if row.teachers else IMAGE,
        adapt_stem=benchmark.adapt_stem if pair.adapt_stem is None else pair.adapt_stem,
        options=pair.options,
        out_indices=pair.out_indices,
        teacher_options=about.options if about else {},
        teacher_out_indices=about.out_indices if about else (),
        teacher_file=_file_of(about) if about else None,
        data=benchmark.data,
        recipe=overridden(benchmark.recipe, row.recipe),
    )


def _file_of(teacher: Teacher) -> TeacherFile | None:
    """Return the file of a teacher's weights with the hash of what is in it now, "" where it is not there; None for a cell."""
    if not teacher.checkpoint_path:
        return None
    found = files.hash_if_there(Path(teacher.checkpoint_path).expanduser())
    return TeacherFile(teacher.checkpoint_path, found or "", teacher.mean, teacher.std)


def _paths(images: Generated, makers: list[str], teacher: str) -> tuple[str, ...]:
    """Return the paths of the cells that images are made by: GAN, teacher, and the density ratio where it is used."""
    gan, ratio = makers
    return gan, teacher, *([ratio] if images.subsample else [])


def _makers(benchmark: Benchmark, dataset: str, teacher: str) -> list[Cell]:
    """Return the cells of the GAN and of the density ratio of a data set, judged by and reading the features of a teacher."""
    given = benchmark.generator
    shared = {
        **{"benchmark": benchmark.benchmark, "dataset": dataset, "seed": given.seed, "teacher": teacher},
        **{"protocol": benchmark.protocol, "adapt_stem": benchmark.adapt_stem, "data": benchmark.data},
    }
    taught = f"{benchmark.benchmark}/{slug(dataset)}/{teacher}/{BASELINE}/seed{benchmark.teacher_seeds[0]}"
    gan = Cell(
        model=given.network,
        method="gan",
        student=given.network,
        networks=2,
        partners=(given.discriminator,),
        partner_steps=given.steps,
        teachers=(taught,),
        objective={"adversarial": {"weight": 1.0, **given.adversarial}},
        task="generation",
        recipe=overridden(benchmark.recipe, {**GAN_RECIPE, **given.recipe}),
        **shared,
    )
    ratio = Cell(
        model=given.ratio,
        method="density-ratio",
        student=given.ratio,
        teachers=(taught, gan.path),
        objective={"ratio": {"weight": 1.0, **given.density}},
        task="density-ratio",
        recipe=overridden(benchmark.recipe, {**RATIO_RECIPE, **given.ratio_recipe}),
        **shared,
    )
    return [gan, ratio]


def torchrun(processes: int) -> list[str]:
    """Return the arguments of python that start what follows them in so many processes of this machine; see `dgd.spread`."""
    return ["-m", "dgd.spread", "--standalone", f"--nproc-per-node={processes}"]
