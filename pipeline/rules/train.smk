"""
This part of the workflow trains the cells that are missing or stale. A teacher is a `baseline` cell of another model: the same rule, run earlier.

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
"""


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
        cell=one_of(
            path for path in {**STALE, **dict.fromkeys(NAMED)} if path not in TEACHERS
        ),
    conda:
        "../../envs/train.yaml"
    threads: lambda wildcards: threads(CELLS[wildcards.cell])
    resources:
        gpu=lambda wildcards: gpus(CELLS[wildcards.cell]),
        mem_mb=lambda wildcards: mem_mb(CELLS[wildcards.cell]),
    params:
        # Functions of the output too: Snakemake does not take their values for a reason to train again.
        why=lambda wildcards, output: f"\n{STALE.get(wildcards.cell) or ''}".rstrip(),
        launcher=lambda wildcards, output: launcher(CELLS[wildcards.cell]),
        cell=lambda wildcards, output: json.dumps(
            CELLS[wildcards.cell].plain(), sort_keys=True
        ),
        data=lambda wildcards, output: f"{PREPARED}/{CELLS[wildcards.cell].data_slug}",
        results=lambda wildcards, output: output.metrics.split(wildcards.cell)[0],
    message:
        "training {wildcards.cell}{params.why}"
    shell:
        # The progress bars go to the log; the line at the end goes to the terminal too.
        "{params.launcher} -m pipeline.train --cell {params.cell:q} --data {params.data:q} --results {params.results:q} "
        "2> {log:q} | tee -a {log:q}"


use rule train as teacher with:
    wildcard_constraints:
        cell=one_of(
            path for path in {**STALE, **dict.fromkeys(NAMED)} if path in TEACHERS
        ),
    priority: 1
    message:
        "training the teacher {wildcards.cell}{params.why}"
