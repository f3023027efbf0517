"""
This part of the workflow evaluates trained cells with filters removed. It trains nothing, and runs only where the config has
`pruning`.

REQUIRED INPUTS:

    <results>/<cell>/model.safetensors, metrics.json, config.yaml
    <data.dir>/prepared/<benchmark>/<dataset>/     the prepared data set

OUTPUT, in the cell's folder:

    pruning.csv     accuracy as its smallest filters, and as many random ones, are removed
"""


rule prune:
    """Evaluating a cell without its smallest filters."""
    input:
        model=f"{RESULTS}/{{cell}}/model.safetensors",
        # They say what was measured, and come with the weights: alone they are no reason to prune again.
        about=[
            ancient(f"{RESULTS}/{{cell}}/{file}")
            for file in ("metrics.json", "config.yaml")
        ],
        images=lambda wildcards: data_of(CELLS[wildcards.cell], "images.safetensors"),
        manifest=lambda wildcards: data_of(CELLS[wildcards.cell], "manifest.json"),
    output:
        f"{RESULTS}/{{cell}}/pruning.csv",
    log:
        f"{RESULTS}/{{cell}}/prune.log",
    wildcard_constraints:
        # Where the data set is gone, and nothing asks for it, what was measured stays.
        cell=one_of(
            path
            for path in CELLS
            if path in STALE
            or DATA[CELLS[path].data_slug].hash
            or not os.path.exists(f"{RESULTS}/{path}/pruning.csv")
        ),
    conda:
        f"../../envs/train-{DEVICE}.yaml"
    threads: lambda wildcards: CELLS[wildcards.cell].recipe.threads
    resources:
        gpu=lambda wildcards: min(1, gpus(CELLS[wildcards.cell])),
        mem_mb=lambda wildcards: mem_mb(CELLS[wildcards.cell]),
    params:
        shares=CONFIG["pruning"],
        data=lambda wildcards: data_of(CELLS[wildcards.cell]),
        folder=lambda wildcards, input: os.path.dirname(input.model),
        threads=lambda wildcards, threads: f"OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads}",
        src=identity.code("pipeline.prune", apart=identity.APART),
    message:
        "pruning {wildcards.cell}"
    shell:
        "{params.threads} python -m pipeline.prune --folder {params.folder:q} --data {params.data:q} --shares {params.shares} "
        "2> {log:q} | tee -a {log:q}"
