"""
This part of the workflow generates training images, for the rows that name some of the config's `generated`.

REQUIRED INPUTS:

    <data.dir>/prepared/<benchmark>/<dataset>/     the real, prepared data set
    <results>/<maker's cell>/                      weights and metrics of the GAN, the teacher and the density ratio

OUTPUTS, a prepared data set like any other:

    <data.dir>/prepared/<benchmark>/<dataset>+<images>/images.safetensors
    <data.dir>/prepared/<benchmark>/<dataset>+<images>/manifest.json
    <data.dir>/prepared/<benchmark>/<dataset>+<images>/made-from.json
"""


rule generate:
    """Generating training images, chosen by a density ratio and a teacher."""
    input:
        images=lambda wildcards: f"{PREPARED}/{IMAGES[wildcards.images].cell.slug}/images.safetensors",
        manifest=lambda wildcards: f"{PREPARED}/{IMAGES[wildcards.images].cell.slug}/manifest.json",
        makers=lambda wildcards: [
            f"{RESULTS}/{path}/{file}"
            for path in IMAGES[wildcards.images].cell.makers
            for file in ("model.safetensors", "metrics.json", "config.yaml")
        ],
        mark=lambda wildcards: mark_of(wildcards.images),
    output:
        images=f"{PREPARED}/{{images}}/images.safetensors",
        manifest=f"{PREPARED}/{{images}}/manifest.json",
    log:
        f"{BENCHMARK}/logs/generate-{{images}}.log",
    benchmark:
        f"{BENCHMARK}/logs/generate-{{images}}.usage.tsv"
    wildcard_constraints:
        images=one_of(IMAGES),
    priority: 1
    conda:
        f"../../envs/train-{DEVICE}.yaml"
    threads: lambda wildcards: IMAGES[wildcards.images].cell.recipe.threads
    resources:
        gpu=lambda wildcards: min(1, gpus(IMAGES[wildcards.images].cell)),
        mem_mb=4000,
    params:
        # A function of the output too: Snakemake does not take its value for a reason to generate again.
        cell=lambda wildcards, output: json.dumps(
            IMAGES[wildcards.images].cell.plain(), sort_keys=True
        ),
        results=RESULTS,
        base=lambda wildcards, input: os.path.dirname(input.manifest),
        out=lambda wildcards, output: os.path.dirname(output.manifest),
        threads=lambda wildcards, threads: f"OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads}",
    message:
        "generating {wildcards.images}"
    shell:
        "exec &> >(tee {log:q}); "
        "{params.threads} python -m pipeline.generate --cell {params.cell:q} --base {params.base:q} --results {params.results:q} "
        "--out {params.out:q}"
