"""
This part of the workflow trains the cells that are missing or stale. A teacher is a cell of another model: the same rule, run earlier.

REQUIRED INPUTS:

    <data.dir>/prepared/<benchmark>/<dataset>/     the prepared data set
    <results>/<teacher's cell>/                    its weights and metrics, for methods with teachers

OUTPUTS, in <results>/<benchmark>/<dataset>/<model>/<method>/seed<k>/:

    metrics.json        accuracies, filter statistics, timings
    history.csv         an epoch a row
    config.yaml         the resolved cell
    provenance.json     code, environment, data and command
    predictions.npz     predictions on the test set
    filters.npz         norms and entropies of the filters
    model.safetensors   weights of every network of the group

A cell has a job of its own, or one with others (`together`): rule `train_together` trains them, and `trained` is each of them. The log
of such a job, <results>/<benchmark>/logs/together/*.log, is the train.log of its cells too.
"""

# Cells that have a job of their own.
ALONE = [path for path in {**STALE, **dict.fromkeys(NAMED)} if path not in BUNDLE]
# A teacher is among the cells of these numbers.
TEACHES = rf".*\b({'|'.join(map(NUMBERS.get, TEACHERS)) or '(?!)'})\b"


rule train:
    """Training a cell: one method, one student, one seed."""
    input:
        images=lambda wildcards: data_to_train(wildcards, "images.safetensors"),
        manifest=lambda wildcards: data_to_train(wildcards, "manifest.json"),
        teachers=lambda wildcards: teachers_of(wildcards, "model.safetensors"),
        # Says whether a teacher has a result.
        outcomes=lambda wildcards: teachers_of(wildcards, "metrics.json"),
        identities=lambda wildcards: teachers_of(wildcards, "provenance.json"),
        # Newer than the outputs of a stale cell: its reason to be trained again.
        mark=lambda wildcards: mark_of(wildcards.cell),
    output:
        metrics=f"{RESULTS}/{{cell}}/metrics.json",
        history=f"{RESULTS}/{{cell}}/history.csv",
        config=f"{RESULTS}/{{cell}}/config.yaml",
        provenance=f"{RESULTS}/{{cell}}/provenance.json",
        predictions=f"{RESULTS}/{{cell}}/predictions.npz",
        filters=f"{RESULTS}/{{cell}}/filters.npz",
        model=f"{RESULTS}/{{cell}}/model.safetensors",
    log:
        f"{RESULTS}/{{cell}}/train.log",
    benchmark:
        f"{RESULTS}/{{cell}}/usage.tsv"
    wildcard_constraints:
        cell=one_of(path for path in ALONE if path not in TEACHERS),
    conda:
        f"../../envs/train-{DEVICE}.yaml"
    threads: lambda wildcards: threads(CELLS[wildcards.cell])
    resources:
        gpu=lambda wildcards: gpus(CELLS[wildcards.cell]),
        mem_mb=lambda wildcards: mem_mb(CELLS[wildcards.cell]),
    params:
        # Functions of the output too: Snakemake does not take their values for a reason to train again.
        why=lambda wildcards, output: f"\n{said(CELLS[wildcards.cell], STALE.get(wildcards.cell))}".rstrip(),
        launcher=lambda wildcards, output: launcher(CELLS[wildcards.cell]),
        asked=lambda wildcards, output: asked_of(wildcards),
        results=lambda wildcards, output: output.metrics.split(wildcards.cell)[0],
    message:
        "training {wildcards.cell}{params.why}"
    shell:
        # The progress bars go to the log; the line at the end goes to the terminal too.
        "{params.launcher} -m pipeline.train {params.asked:q} --results {params.results:q} "
        "2> {log:q} | tee -a {log:q}"


use rule train as teacher with:
    wildcard_constraints:
        cell=one_of(path for path in ALONE if path in TEACHERS),
    priority: 1
    message:
        "training the teacher {wildcards.cell}{params.why}"


# What these jobs make are outputs of `trained` instead: should one of them end early, the cells that are done stay.
rule train_together:
    """Training cells side by side, in one process."""
    input:
        images=lambda wildcards: data_to_train(wildcards, "images.safetensors"),
        manifest=lambda wildcards: data_to_train(wildcards, "manifest.json"),
        teachers=lambda wildcards: teachers_of(wildcards, "model.safetensors"),
        outcomes=lambda wildcards: teachers_of(wildcards, "metrics.json"),
        identities=lambda wildcards: teachers_of(wildcards, "provenance.json"),
    output:
        # What could not be trained.
        failed=temp(f"{TOGETHER}/{{time}}.{{cells}}"),
    log:
        f"{TOGETHER}/{{time}}.{{cells}}.log",
    benchmark:
        f"{TOGETHER}/{{time}}.{{cells}}.usage.tsv"
    wildcard_constraints:
        time="[0-9a-f]+",
        cells=rf"(?!{TEACHES})[\d-]+",
    conda:
        f"../../envs/train-{DEVICE}.yaml"
    threads: lambda wildcards: threads(cells_of(wildcards)[0])
    resources:
        gpu=lambda wildcards: gpus(cells_of(wildcards)[0]),
        mem_mb=lambda wildcards: mem_mb(*cells_of(wildcards)),
    params:
        why=lambda wildcards, output: "".join(
            f"\n{cell.path} {said(cell, STALE.get(cell.path))}".rstrip()
            for cell in cells_of(wildcards)
        ),
        launcher=lambda wildcards, output: launcher(cells_of(wildcards)[0]),
        asked=lambda wildcards, output: asked_of(wildcards),
        results=lambda wildcards, output: output.failed.split(
            f"/{CONFIG['benchmark']}/logs/"
        )[0],
    message:
        "training side by side:{params.why}"
    shell:
        "{params.launcher} -m pipeline.train {params.asked:q} --results {params.results:q} --failed {output.failed:q} --log {log:q} "
        "2>> {log:q} | tee -a {log:q}"


use rule train_together as teach_together with:
    wildcard_constraints:
        time="[0-9a-f]+",
        cells=rf"(?={TEACHES})[\d-]+",
    priority: 1
    message:
        "training side by side, teachers among them:{params.why}"


rule trained:
    """A cell that was trained side by side with others; if it is not there, the log of their job says why."""
    input:
        failed=lambda wildcards: ancient(BUNDLE[wildcards.cell]),
        mark=lambda wildcards: mark_of(wildcards.cell),
    output:
        metrics=f"{RESULTS}/{{cell}}/metrics.json",
        history=f"{RESULTS}/{{cell}}/history.csv",
        config=f"{RESULTS}/{{cell}}/config.yaml",
        provenance=f"{RESULTS}/{{cell}}/provenance.json",
        predictions=f"{RESULTS}/{{cell}}/predictions.npz",
        filters=f"{RESULTS}/{{cell}}/filters.npz",
        model=f"{RESULTS}/{{cell}}/model.safetensors",
    wildcard_constraints:
        cell=one_of(BUNDLE),
    priority: 1
    # To wait again would not bring it.
    retries: 0
    message:
        "checking that {wildcards.cell} is trained"
