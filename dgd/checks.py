"""What the keys of a benchmark mean to each other, and which names and folders exist: checks of a benchmark as a whole.

Where torch is, names of data sets and networks and the values of terms' options are held to the registries too.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path

import dgd
from dgd import keys, methods, metrics, plugins, shipped, terms
from dgd.benchmark import GAN_RECIPE, RATIO_RECIPE, Benchmark, objective_of, overridden, rows_of, teacher_row
from dgd.cell import Recipe, RePr, exchange, slug

READINGS = ("last", "best-on-test", "mean", "best", "ensemble")
MOST_CELLS = 1_000_000


def problems(benchmark: Benchmark, wrong: Mapping, folders: bool = True, registries: bool = True) -> list[str]:
    """Say in a line each what is wrong with a benchmark as a whole, and what would be right.

    Args:
        benchmark: Its keys have values that are right by themselves, but for those of `wrong`.
        wrong: Keys with a mistake of their own, which no check looks at.
        folders: Folders of images must be there. To name a benchmark's cells they need not.
        registries: Hold names and options to the registries too, which imports torch. What was checked before needs it not.
    """
    checks = [(reads, check) for reads, check in _CHECKS if not wrong.keys() & set(reads)]
    if not registries:
        checks = [(reads, check) for reads, check in checks if check not in _OF_REGISTRIES]
    lines = [line for _, check in checks for line in check(benchmark)]
    if folders and "datasets" not in wrong:
        lines += _folder_problems(benchmark)
    if folders and "pairs" not in wrong:
        lines += [
            f"pairs[{i}].teacher.checkpoint_path: {keys.short(pair.checkpoint)} is no file; give one of the teacher's weights"
            for i, pair in enumerate(benchmark.pairs)
            if pair.checkpoint and not os.path.isfile(os.path.expanduser(pair.checkpoint))
        ]
    return lines


def _size_problems(benchmark: Benchmark) -> list[str]:
    number = len(benchmark.datasets) * len(benchmark.pairs) * len(benchmark.methods) * len(benchmark.seeds)
    if number <= MOST_CELLS:
        return []
    return [f"seeds: datasets x pairs x methods x seeds are {number:,} cells; it must be at most {MOST_CELLS:,}"]


def _paper_problems(benchmark: Benchmark) -> list[str]:
    there = sorted(path.stem for path in shipped.PAPERS.glob("*.yaml"))
    return [
        f"papers: no file papers/{name}.yaml{keys.nearest(name, [*there, *plugins.PAPERS])}"
        for name in benchmark.papers
        if name not in (*there, *plugins.PAPERS)
    ]


def _dataset_problems(benchmark: Benchmark) -> list[str]:
    lines = []
    slugs = [slug(name) for name in benchmark.datasets]
    for twice in dict.fromkeys(name for i, name in enumerate(slugs) if name in slugs[:i]):
        lines.append(f"datasets: two of them would share the folder {twice!r}; rename one, or make two benchmarks")
    for name in benchmark.datasets:
        kind, _, folder = name.partition(":")
        if kind != "imagefolder":
            lines += _unknown_dataset(name)
            continue
        if not Path(folder).name or len(slug(name)) > 100:
            lines.append(f"datasets: {keys.short(name)} has no name for a folder of results; write imagefolder:<path>")
        if not benchmark.data.image_size:
            lines.append(f"data.image_size is needed for {keys.short(name)}: the side in pixels that its images are brought to")
    return lines


def _folder_problems(benchmark: Benchmark) -> list[str]:
    folders = [name.partition(":")[2] for name in benchmark.datasets if name.startswith("imagefolder:")]
    return [
        f"datasets: {keys.short(folder)} is no folder; write imagefolder:<path of a folder with train/ and test/>"
        for folder in folders
        if not os.path.isdir(os.path.expanduser(folder))
    ]


def _image_problems(benchmark: Benchmark) -> list[str]:
    """Check each recipe's constants and padding against the images of the data sets, as far as these are known."""
    lines = []
    for where, recipe in _recipes(benchmark):
        if benchmark.data.loader == "stream" and (recipe.augment.pad, recipe.augment.mode) != (None, "zeros"):
            lines.append(f"{where}.augment: pad and mode do not apply to data.loader: stream, only flip does; leave them out")
        for name in benchmark.datasets:
            channels, side = _image_shape(benchmark, name)
            count = len(recipe.normalise.mean) if recipe.normalise else channels
            if channels is not None and count != channels:
                lines.append(
                    f"{where}.normalise.mean has {count} numbers, and images of {keys.short(name)} have {channels} channels; "
                    "give one for each"
                )
            pad = recipe.augment.of(name).pad
            if recipe.augment.mode == "reflect" and pad is not None and side and pad >= side:
                lines.append(
                    f"{where}.augment.pad is {pad}; images of {keys.short(name)}, of {side} pixels, are reflected by at most "
                    f"{side - 1}"
                )
    return lines


def _recipes(benchmark: Benchmark) -> list[tuple[str, Recipe]]:
    """Return the benchmark's recipe and those of teachers and rows that change it, with the key of each."""
    made = {"teacher_recipe": benchmark.teacher_recipe}
    made |= {f"methods.{name}.recipe": row.recipe for name, row in benchmark.rows.items()}
    own = [(where, overridden(benchmark.recipe, changes)) for where, changes in made.items() if changes]
    return [("recipe", benchmark.recipe), *own]


def _image_shape(benchmark: Benchmark, dataset: str) -> tuple[int | None, int | None]:
    """Return channels and side of a data set's images, as far as they are known."""
    if dataset.startswith("imagefolder:"):
        return 3, benchmark.data.image_size
    if not dgd.NETWORKS:
        return None, None
    from dgd import data

    shape = data.SOURCES[dataset].shape if dataset in data.SOURCES else None
    return shape[1:3] if shape else (None, None)


def _unknown_dataset(name: str) -> list[str]:
    if not dgd.NETWORKS:
        return [] if ":" not in name and "/" not in name else [f"datasets: unknown data set {keys.short(name)}"]
    from dgd import data

    near = keys.nearest(name, [*data.names(), "imagefolder:<path>"])
    return [] if data.is_known(name) else [f"datasets: unknown data set {keys.short(name)}{near}"]


def _control_names(benchmark: Benchmark) -> list[str]:
    rows, lines = benchmark.rows, []
    if benchmark.controls and "baseline" not in rows:
        return ["controls: gains are over the baseline, which is not in methods; add it"]
    for method, readings in benchmark.controls.items():
        place = f"controls: {keys.short(method)}"
        if method not in rows or method == "baseline":
            lines.append(f"{place} has no gain; write a name of methods other than baseline")
        for reading in readings:
            name, _, how = reading.partition("@")
            if name not in rows or (how or "last") not in READINGS:
                lines.append(
                    f"controls: {keys.short(reading)} is no reading; write a name of methods, or <name>@<how> with one of "
                    f"{', '.join(READINGS)}"
                )
            elif reading == method:
                lines.append(f"controls: {method} is held against itself; name another method")
            elif how in ("mean", "best", "ensemble") and rows[name].networks < 2:
                lines.append(f"controls: {reading!r} reads a group, and {name} has one network; write {name!r}")
    return lines


def _pair_names(benchmark: Benchmark) -> list[str]:
    rows = benchmark.rows
    return [
        f"pairs[{i}].methods: {name!r} of {pair.student} is no name of methods{keys.nearest(name, rows)}"
        for i, pair in enumerate(benchmark.pairs)
        for name in pair.methods or ()
        if name not in rows
    ]


def _named_rows(benchmark: Benchmark) -> list[str]:
    """Check the rows that rows name as their baseline and as their teachers': of one network that is trained alone."""
    lines, rows = [], benchmark.rows
    trained: dict[str, set[str]] = {}
    for pair in benchmark.pairs:
        trained.setdefault(pair.student, set()).update(rows_of(pair, rows))
    for name, row in rows.items():
        for key, other in (("baseline", row.baseline), ("taught_by", row.taught_by)):
            where = f"methods.{name}.{key}"
            if other is None:
                continue
            if other not in rows:
                lines.append(f"{where} is {other!r}; it is no name of methods{keys.nearest(other, rows)}")
            elif rows[other].networks > 1 or rows[other].teachers or rows[other].generated or rows[other].subnets:
                lines.append(f"{where} is {other!r}, which is no row of a network trained alone on the data set; name one")
            elif rows[other].baseline and other != rows[other].baseline:
                lines.append(f"{where} is {other!r}, which has a baseline itself, {rows[other].baseline!r}; leave that out")
        if row.taught_by and not row.teachers:
            lines.append(f"methods.{name}.taught_by: {name} has no teachers; leave it out, or set teachers: 1")
        for student, there in trained.items():
            if row.baseline in rows and name in there and row.baseline not in there:
                lines.append(
                    f"pairs: {student} is trained by {name!r} and not by its baseline {row.baseline!r}; add it to methods"
                )
    return lines


def _taught_constants(benchmark: Benchmark) -> list[str]:
    """Check that teachers learned from images of the constants that their students' have: both see the same ones."""
    lines = []
    for name, row in benchmark.rows.items():
        if not row.teachers or (row.taught_by and row.taught_by not in benchmark.rows):
            continue
        own = overridden(benchmark.recipe, row.recipe)
        teacher, taught = teacher_row(benchmark, row)
        if own.normalise != overridden(benchmark.recipe, taught.recipe).normalise:
            lines.append(
                f"methods.{name}.recipe.normalise: its teachers, of {teacher!r}, have other constants, and see the same "
                "images; give both the same, by taught_by or teacher_recipe"
            )
    return lines


def _pair_teachers(benchmark: Benchmark) -> list[str]:
    lines = []
    for i, pair in enumerate(benchmark.pairs):
        for name, row in rows_of(pair, benchmark.rows).items():
            if row.teachers and not pair.teacher:
                lines.append(
                    f"pairs[{i}].teacher: method {name!r} needs a teacher and the pair of {pair.student} has none; "
                    f"write `teacher: <model>` beside `student: {pair.student}`"
                )
    return lines


def _pair_subnets(benchmark: Benchmark) -> list[str]:
    """Check that there are sub-nets where a method has them, and where torch is, that their layers are their student's."""
    lines = []
    for i, pair in enumerate(benchmark.pairs):
        place, names = f"pairs[{i}].subnets", pair.subnets
        needed = [name for name, row in rows_of(pair, benchmark.rows).items() if row.subnets]
        if needed and not names:
            lines.append(
                f"{place}: method {needed[0]!r} needs sub-nets and the pair of {pair.student} names none; write `subnets: "
                "[<model>, ...]` with shallower models of its kind"
            )
        if needed and names and dgd.NETWORKS:
            lines += _nesting_problems(benchmark, pair.student, names, place)
    return lines


def _nesting_problems(benchmark: Benchmark, student: str, names: Sequence[str], place: str) -> list[str]:
    from dgd import models

    lines = [f"{place}: {models.suggest(name)}" for name in dict.fromkeys(names) if not models.is_known(name)]
    if lines or not models.is_known(student):
        return lines
    size = benchmark.data.image_size or 32
    found = {name: models.nesting_problem(student, name, size, benchmark.adapt_stem) for name in names}
    return [f"{place}: {student} cannot contain {name}: {problem}" for name, problem in found.items() if problem]


def _inputs(benchmark: Benchmark) -> list[str]:
    """Check that each pair's inputs are the data sets', and that no network is trained on two: its results have one folder."""
    lines, taken = [], {}
    for i, pair in enumerate(benchmark.pairs):
        for role, network, input in (("input", pair.student, pair.input), ("teacher_input", pair.teacher, pair.teacher_input)):
            if not network:
                continue
            if taken.setdefault(network, input) != input:
                lines.append(
                    f"pairs[{i}].{role}: {network} takes {taken[network]!r} in another place and {input!r} here, and its "
                    "baseline has one folder; take another network for one of them, or make two benchmarks"
                )
            for name in benchmark.datasets if dgd.NETWORKS else ():
                there = _inputs_of(name)
                if there and input not in there:
                    lines.append(f"pairs[{i}].{role}: {keys.short(name)} has no input {input!r}{keys.nearest(input, there)}")
    return lines


def _inputs_of(dataset: str) -> tuple[str, ...]:
    """Return the inputs of a data set; none of one that is not known."""
    from dgd import data

    return data.SOURCES[dataset.partition(":")[0]].inputs if data.is_known(dataset) else ()


def _teacher_seeds(benchmark: Benchmark) -> list[str]:
    there = len(benchmark.teacher_seeds)
    return [
        f"teacher_seeds: method {name!r} needs {row.teachers} teachers and teacher_seeds has {there}; give it {row.teachers} "
        "seeds"
        for name, row in benchmark.rows.items()
        if row.teachers > there and any(name in rows_of(pair, benchmark.rows) for pair in benchmark.pairs)
    ]


def _one_network(benchmark: Benchmark) -> list[str]:
    """Check that a network is built in one way wherever it stands: its results have one folder."""
    lines, taken = [], {}
    for i, pair in enumerate(benchmark.pairs):
        about, adapted = pair.about_teacher, {"adapt_stem": pair.adapt_stem}
        found = [("", pair.student, {**adapted, "options": dict(pair.options), "out_indices": pair.out_indices})]
        if about and not about.checkpoint_path:
            found.append(("teacher.", about.name, {**adapted, "options": dict(about.options)}))
        for role, network, given in found:
            before = taken.setdefault(network, {})
            odd = [key for key, value in given.items() if before.setdefault(key, value) != value]
            lines += [
                f"pairs[{i}].{role}{key}: {network} has {keys.short(before[key])} in another place and "
                f"{keys.short(given[key])} here, and its cells have one folder; give both the same, or make two benchmarks"
                for key in odd
            ]
    return lines


def _teacher_files(benchmark: Benchmark) -> list[str]:
    """Check what a teacher from a file is asked for."""
    lines, files = [], {}
    for i, pair in enumerate(benchmark.pairs):
        place, about = f"pairs[{i}].teacher", pair.about_teacher
        if about is None:
            continue
        if not about.checkpoint_path and (about.mean or about.std):
            lines.append(f"{place}.{'mean' if about.mean else 'std'}: a teacher that is trained here sees the data set's own")
        if files.setdefault((pair.student, about.name), about.checkpoint_path) != about.checkpoint_path:
            lines.append(f"{place}: {pair.student} has the teacher {about.name} twice, of which one is of another file")
        for name, row in rows_of(pair, benchmark.rows).items():
            if about.checkpoint_path and row.teachers > 1:
                lines.append(f"{place}.checkpoint_path: method {name!r} needs {row.teachers} teachers, and a file is one")
            if row.generated and (about.checkpoint_path or about.options):
                lines.append(f"{place}: generated images are judged by a teacher that is trained here, without options")
    return lines


def _model_options(benchmark: Benchmark) -> list[str]:
    if not dgd.NETWORKS:
        return []
    from dgd import models

    lines = []
    for i, pair in enumerate(benchmark.pairs):
        about = pair.about_teacher
        given = [("options", pair.student, pair.options), *([("teacher.options", about.name, about.options)] if about else [])]
        for role, name, options in given:
            if options and models.is_known(name) and (problem := models.options_problem(name, options)):
                lines.append(f"pairs[{i}].{role}: {problem}")
    return lines


def _models(benchmark: Benchmark) -> list[str]:
    if not dgd.NETWORKS:
        return []
    from dgd import models

    places: dict[str, str] = {}
    for i, pair in enumerate(benchmark.pairs):
        for role, name in (("student", pair.student), ("teacher", pair.teacher)):
            if name:
                places.setdefault(name, f"pairs[{i}].{role}")
    return [f"{place}: {models.suggest(name)}" for name, place in places.items() if not models.is_known(name)]


def _two_baselines(benchmark: Benchmark) -> list[str]:
    both = {pair.student for pair in benchmark.pairs} & {pair.teacher for pair in benchmark.pairs}
    return [
        f"teacher_recipe: {name} is a student and a teacher, and its baseline is one cell; leave teacher_recipe out, or make "
        "two benchmarks"
        for name in sorted(both)[:1]
        if benchmark.teacher_recipe
    ]


def _generated_rows(benchmark: Benchmark) -> list[str]:
    """Check the rows that train on generated images, and what these are made by."""
    lines, teachers = [], {}
    for i, pair in enumerate(benchmark.pairs):
        for name, row in rows_of(pair, benchmark.rows).items():
            if row.generated is None:
                continue
            if row.generated not in benchmark.generated:
                near = keys.nearest(row.generated, benchmark.generated)
                lines.append(f"methods.{name}.generated is {row.generated!r}; it is no name of generated{near}")
            if not pair.teacher:
                lines.append(
                    f"pairs[{i}].teacher: method {name!r} trains on generated images, which a teacher judges, and the pair of "
                    f"{pair.student} has none; write `teacher: <model>` beside `student: {pair.student}`"
                )
            teachers.setdefault(pair.teacher, i)
    if len(teachers) > 1:
        lines.append(f"pairs[{[*teachers.values()][1]}].teacher: generated images of one benchmark are judged by one teacher")
    options = {"adversarial": benchmark.generator.adversarial, "ratio": benchmark.generator.density}
    lines += terms.objective_problems(options, "generator")
    if teachers and benchmark.data.loader == "stream":
        lines.append("data.loader is 'stream'; generated images are held in memory, write memory or auto")
    return lines


def _generator_models(benchmark: Benchmark) -> list[str]:
    if not dgd.NETWORKS:
        return []
    from dgd import models

    given = benchmark.generator
    names = {"network": given.network, "discriminator": given.discriminator, "ratio": given.ratio}
    return [f"generator.{key}: {models.suggest(name)}" for key, name in names.items() if not models.is_known(name)]


def _optimiser_problems(recipe: Recipe, where: str, exchanges: bool = False) -> list[str]:
    """Check keys of a recipe that depend on each other, and that an exchange has SGD's momentum."""
    lines = _momentum_problems(recipe, where)
    if exchanges and recipe.optimiser != "sgd":
        lines.append(f"{where}.optimiser is {recipe.optimiser!r}; an exchange of weights needs sgd")
    if recipe.average_every == "step" and recipe.weight_average == "swa":
        lines.append(f"{where}.average_every is 'step'; with weight_average: swa it must be epoch")
    if recipe.fused_norm and (recipe.compile or not recipe.channels_last):
        lines.append(f"{where}.fused_norm is true; it needs compile: false and channels_last: true")
    return lines


def _momentum_problems(recipe: Recipe, where: str) -> list[str]:
    if recipe.nesterov and not recipe.momentum:
        return [f"{where}.nesterov is true and {where}.momentum 0; it needs momentum above 0"]
    return []


def _own_recipes(benchmark: Benchmark) -> list[str]:
    lines = _optimiser_problems(benchmark.recipe, "recipe")
    made = {
        "recipe": (GAN_RECIPE, benchmark.generator.recipe),
        "ratio_recipe": (RATIO_RECIPE, benchmark.generator.ratio_recipe),
    }
    for key, (fixed, given) in made.items():
        lines += _optimiser_problems(overridden(benchmark.recipe, {**fixed, **given}), f"generator.{key}") if given else []
    for name, row in benchmark.rows.items():
        recipe = overridden(benchmark.recipe, row.recipe)
        found = exchange(row.exchange, benchmark.protocol)
        if isinstance(found, RePr) and row.subnets:
            lines.append(
                f"methods.{name}: 'repr' drops filters of one network, which its sub-nets share; leave one of them out"
            )
        where = f"methods.{name}.recipe" if row.recipe else "recipe"
        lines += _optimiser_problems(recipe, where, bool(found)) if row.recipe or found else []
        if isinstance(found, RePr) and recipe.epochs <= found.epochs:
            lines.append(
                f"methods.{name}: the cycles of 'repr' take {found.epochs} epochs, and recipe.epochs is {recipe.epochs}: the "
                "reported network would lack filters, or never have lost any"
            )
    return lines


def _teacher_recipes(benchmark: Benchmark) -> list[str]:
    if not benchmark.teacher_recipe:
        return []
    return _optimiser_problems(overridden(benchmark.recipe, benchmark.teacher_recipe), "teacher_recipe")


def _tasks(benchmark: Benchmark) -> list[str]:
    """Check that `ce` can stand for the term of another task: its options cannot, nor can it stand beside that term."""
    lines = []
    for kind in sorted({metrics.of_dataset(name) for name in benchmark.datasets} - {"classification"}):
        own = metrics.TERMS[kind]
        for name, row in benchmark.rows.items():
            given = methods.given_options(row.objective)
            where = f"methods.{name}.objective.ce: {kind} minimises {own} instead of ce,"
            lines += [f"{where} which has no option {option!r}" for option in given.get("ce", {}) if option != "weight"]
            lines += [f"{where} and {own} is there too; leave one out"] if {"ce", own} <= given.keys() else []
    return lines


def _needs(benchmark: Benchmark) -> list[str]:
    """Check values of terms' options, and what terms need, by making the terms where torch is."""
    if not dgd.NETWORKS:
        return []
    from dgd import objectives

    lines = []
    kinds = dict.fromkeys(map(metrics.of_dataset, benchmark.datasets)) or ("classification",)
    for name, row in benchmark.rows.items():
        recipe = overridden(benchmark.recipe, row.recipe)
        try:
            of_kind = {kind: objectives.Objective(objective_of(row, benchmark.protocol, kind)) for kind in kinds}
        except (ValueError, TypeError) as error:
            lines.append(f"methods.{name}: {' '.join(str(error).split())}")
            continue
        for kind, objective in of_kind.items():
            lines += [
                f"methods.{name}: {term} is for {part.requires.task}, and the data sets have a {kind}; take another term"
                for term, part in objective.terms.items()
                if part.requires.task not in ("", kind)
            ]
        needs = reduce(or_, (objective.requires for objective in of_kind.values()))
        ranks = recipe.ranks_per_network
        for needed, lacking, advice in (
            (needs.teacher, not row.teachers, "a teacher; set teachers: 1"),
            (needs.heads, not row.subnets, "sub-nets; set subnets: true"),
            (needs.runs == "teachers", row.teachers < 2, "two teachers; set teachers: 2"),
            (needs.peers or needs.runs == "peers", row.networks < 2, "other networks in its group; set networks: 2 or more"),
            (needs.peers or needs.runs == "peers", ranks > 0, "all networks in one process; set recipe.ranks_per_network: 0"),
            (needs.indices, ranks > 1, "all images of its network in one process; set recipe.ranks_per_network to 0 or 1"),
            (needs.input_gradient, recipe.compile, "a network that is not compiled; set recipe.compile: false"),
        ):
            if needed and lacking:
                lines.append(f"methods.{name}: a term of {', '.join(row.objective)} needs {advice}")
        if row.subnets and not needs.heads:
            lines.append(
                f"methods.{name}: subnets is true and no term trains them; add subnet_ce to objective, or leave it out"
            )
    return lines


# Each check with the keys that it reads: it runs where these have no mistake of their own.
_CHECKS: tuple[tuple[tuple[str, ...], Callable[[Benchmark], list[str]]], ...] = (
    (("datasets", "pairs", "methods", "seeds"), _size_problems),
    (("papers",), _paper_problems),
    (("datasets", "data"), _dataset_problems),
    (("datasets", "data", "recipe", "teacher_recipe", "methods"), _image_problems),
    (("controls", "methods"), _control_names),
    (("pairs", "methods"), _pair_names),
    (("pairs", "methods"), _pair_teachers),
    (("pairs", "methods"), _named_rows),
    (("methods", "recipe", "teacher_recipe"), _taught_constants),
    (("datasets", "pairs"), _inputs),
    (("pairs", "methods", "teacher_seeds"), _teacher_seeds),
    (("pairs",), _models),
    (("pairs",), _one_network),
    (("pairs",), _model_options),
    (("pairs", "methods"), _teacher_files),
    (("pairs", "methods", "data", "adapt_stem"), _pair_subnets),
    (("pairs", "teacher_recipe"), _two_baselines),
    (("pairs", "methods", "generated", "generator", "data"), _generated_rows),
    (("generator",), _generator_models),
    (("methods", "recipe", "protocol", "generator"), _own_recipes),
    (("recipe", "teacher_recipe"), _teacher_recipes),
    (("datasets", "methods"), _tasks),
    (("datasets", "methods", "recipe", "protocol"), _needs),
)
_OF_REGISTRIES = (
    *(_paper_problems, _dataset_problems, _image_problems, _pair_subnets, _inputs, _models, _model_options),
    *(_generator_models, _needs),
)
"""Those that ask which papers, data sets, networks and terms there are."""
