"""
This part of the workflow turns a data set into uint8 tensors with a checksummed manifest.

REQUIRED INPUTS:

    <data.dir>/                 archives or extracted files of the data set; nothing for `digits`,
                                which scikit-learn holds; a download only where nothing is there

OUTPUTS:

    <data.dir>/prepared/<benchmark>/<dataset>/images.safetensors
    <data.dir>/prepared/<benchmark>/<dataset>/manifest.json
    <data.dir>/prepared/<benchmark>/<dataset>/made-from.json
"""


rule prepare:
    """Preparing a data set: checked, split, written as tensors."""
    input:
        lambda wildcards: mark_of(wildcards.dataset),
    output:
        images=f"{PREPARED}/{{dataset}}/images.safetensors",
        manifest=f"{PREPARED}/{{dataset}}/manifest.json",
    log:
        f"{BENCHMARK}/logs/prepare-{{dataset}}.log",
    benchmark:
        f"{BENCHMARK}/logs/prepare-{{dataset}}.usage.tsv"
    wildcard_constraints:
        dataset=one_of(REAL),
    conda:
        f"../../envs/train-{DEVICE}.yaml"
    threads: 1
    resources:
        mem_mb=4000,
    params:
        dataset=lambda wildcards: REAL[wildcards.dataset].dataset,
        data=json.dumps(CONFIG["data"], sort_keys=True),
        out=lambda wildcards, output: os.path.dirname(output.manifest),
    message:
        "preparing {wildcards.dataset}"
    shell:
        "exec &> >(tee {log:q}); "
        "python -m pipeline.prepare --dataset {params.dataset:q} --data {params.data:q} --out {params.out:q}"
